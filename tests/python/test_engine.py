"""The engine's command line, its kernels' ends, and Pythons that will not do."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from ipyparallel import error
from programs import BINARY, GENEROUS, children, running_engines, wait_until

FAILED, USAGE, KERNELS_DIED = 1, 2, 13


def get(result):
    return result.get(timeout=GENEROUS)


def kernel_pids(client):
    return client[:].apply_sync(os.getpid)


# ---- how it finds its controller


def test_connection_information_from_the_environment(place, tmp_path):
    """No file and no profile is needed where the engine runs."""
    place.controller()
    content = place.engine_file().read_text()
    elsewhere = {"IPP_CONNECTION_INFO": content, "IPYTHONDIR": str(tmp_path / "elsewhere")}
    engine = place.start([BINARY, "engine"], elsewhere)
    client = place.client(1)
    seen = client[0].apply_sync(lambda: dict(os.environ))
    assert "IPP_CONNECTION_INFO" not in seen
    assert place.connection()["key"] not in " ".join(psutil.Process(engine.pid).cmdline())


def test_it_waits_for_the_connection_file(place):
    (place.profile_dir()).mkdir()
    engine = place.ipcluster("engine")
    engine.wait_for("waiting .* for the connection file")
    place.controller()
    assert place.client(1)[:].apply_sync(lambda: 1) == [1]


def test_a_file_that_does_not_come(place):
    place.profile_dir().mkdir()
    code, output = place.run("engine", "--IPEngine.wait_for_url_file=0.2")
    assert code == FAILED
    assert str(place.engine_file()) in output and "--file" in output


def test_a_file_of_another_place(place, tmp_path):
    place.controller()
    moved = tmp_path / "moved.json"
    place.engine_file().rename(moved)
    place.ipcluster("engine", f"--file={moved}")
    place.client(1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "x"}', "\0\1\2"])
def test_a_file_that_is_no_connection_file(place, content):
    security = place.profile_dir() / "security"
    security.mkdir(parents=True)
    place.engine_file().write_text(content)
    code, output = place.run("engine")
    assert code == FAILED
    assert str(place.engine_file()) in output


def test_a_connection_file_that_cannot_be_read(place):
    # A folder: who is root may read every file.
    place.engine_file().mkdir(parents=True)
    code, output = place.run("engine")
    assert code == FAILED
    assert str(place.engine_file()) in output


def test_connection_information_that_is_none(place):
    program = place.start([BINARY, "engine"], {"IPP_CONNECTION_INFO": "{nonsense"})
    assert program.wait() == FAILED
    assert "IPP_CONNECTION_INFO" in program.output and "nonsense" not in program.output


def test_the_connection_file_says_where_to_register(place):
    place.controller()
    # As in ipyparallel, whose job files may have it.
    engine = place.start([BINARY, "engine", "--url=tcp://127.0.0.1:1"])
    place.client(1)
    assert "--url has no effect" in engine.output
    assert engine.stop() == 0


def test_a_controller_that_is_gone(place):
    place.controller("--reuse").kill()
    code, output = place.run("engine", "--timeout=0.5")
    assert code == FAILED
    assert "did not answer" in output and "--timeout" in output


def test_a_wrong_key_registers_nothing(place):
    controller = place.controller()
    content = place.engine_file().read_text().replace(place.connection()["key"], "wrong")
    engine = place.start([BINARY, "engine", "--timeout=2"], {"IPP_CONNECTION_INFO": content})
    controller.wait_for("hub: dropped a message")
    assert engine.wait() == FAILED
    assert place.client().ids == []


def test_an_unknown_profile_is_named(place):
    (place.folder / "profile_cluster").mkdir()
    code, output = place.run("engine", "--profile=clustre")
    assert code != 0
    assert '"clustre"' in output and '"cluster"' in output
    assert not place.profile_dir("clustre").exists()


@pytest.mark.parametrize("arguments, said", [(["--idd=1"], "--id"), (["-n", "0"], "-n 0"), (["-n", "x"], "x"),
                                             (["--IPEngine.tmeout=1"], "timeout")])  # fmt: skip
def test_slips_are_refused(place, arguments, said):
    place.profile_dir().mkdir()
    code, output = place.run("engine", *arguments)
    assert code == USAGE, output
    assert said in output


# ---- ids, start-up code, settings


def test_registration_waits_for_no_heartbeat(place):
    place.controller("--ping=600000")
    place.engines(2)
    assert place.client(2).ids == [0, 1]


def test_a_requested_id_is_granted_if_it_is_free(place):
    place.controller()
    place.engines(2, "--id=5")
    assert place.client(2).ids == [5, 6]
    other = place.engines(1, "--id=5")
    other.wait_for("requested id 5")
    assert place.client(3).ids == [5, 6, 7]


def test_start_up_code_runs_before_the_first_request(place, tmp_path):
    script = tmp_path / "start.py"
    script.write_text("from_file = 2\n")
    place.controller()
    place.engines(2, "--c=from_line = 1", f"--s={script}")
    view = place.client(2)[:]
    assert view.pull(["from_line", "from_file"], block=True) == [[1, 2]] * 2


def test_start_up_code_that_fails_ends_no_engine(place):
    place.controller()
    engines = place.engines(1, "--c=1/0")
    assert place.client(1)[0].apply_sync(lambda: 1) == 1
    assert engines.is_running()


def test_settings_reach_the_kernel(place):
    place.controller()
    place.engines(1, "--InteractiveShell.colors=nocolor", "--InteractiveShell.cache_size=0")
    result = place.client(1)[0].execute("get_ipython().cache_size", silent=False)
    get(result)
    result.wait_for_output(GENEROUS)
    assert result.execute_result["data"]["text/plain"] == "0"


@pytest.mark.parametrize("how", [[], ["--spawn"]])
def test_kernels_have_processes_of_their_own(place, how):
    place.controller()
    engines = place.engines(3, *how)
    pids = kernel_pids(place.client(3))
    assert len(set(pids)) == 3
    assert set(pids) <= {process.pid for process in children(engines.pid)}


def test_what_user_code_imports_is_that_python(place):
    place.controller()
    place.engines(1)
    assert place.client(1)[0].apply_sync(lambda: sys.prefix) == sys.prefix


# ---- ends


def test_ends(place):
    place.controller("--ping=500")
    for number in (signal.SIGTERM, signal.SIGHUP):
        engines = place.engines(2)
        client = place.client(2)
        assert engines.stop(number) == 0
        wait_until(lambda: client.ids == [], "the engines' end")


def test_a_busy_engine_ends_too(place):
    place.controller()
    engines = place.engines(1)
    client = place.client(1)
    result = client[0].apply_async(time.sleep, 600)
    wait_until(lambda: client.queue_status(0)["queue"] == 1, "the request")
    assert engines.stop() == 0
    with pytest.raises(error.RemoteError, match="EngineError"):
        get(result)


def die_of(how):
    import ctypes
    import os
    import signal

    if how == "kill -9":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "os._exit":
        os._exit(7)
    elif how == "segfault":
        ctypes.memset(0, 0, 1)


@pytest.mark.parametrize("queue", ["direct", "load_balanced", "coalescing"])
@pytest.mark.parametrize(
    "how, said",
    [("kill -9", "SIGKILL|signal 9"), ("os._exit", "exit status 7|exit code 7"), ("segfault", "SIGSEGV|signal 11")],
)
def test_a_kernel_that_dies_fails_its_request_at_once(place, queue, how, said):
    # It is no heartbeat that tells.
    controller = place.controller("--hwm=1", "--ping=600000")
    engines = place.engines(2)
    client = place.client(2)
    client[:].apply_sync(die_of, "nothing")
    if queue == "direct":
        view = client[1]
    elif queue == "load_balanced":
        view = client.load_balanced_view(targets=[1])
    else:
        view = client.broadcast_view()
        view.targets = [1]
        view.is_coalescing = True
    result = view.apply_async(die_of, how)
    with pytest.raises(error.RemoteError, match="EngineError") as failed:
        get(result)
    wait_until(lambda: client.ids == [0], "the engine's end")
    assert re.search(said, str(failed.value)), failed.value
    controller.wait_for(f"engine 1 .*({said})")
    engines.wait_for(f"engine 1 .*({said})")
    assert client[0].apply_sync(lambda: "alive") == "alive"


def test_a_kernel_that_is_killed_from_outside_while_idle(place):
    place.controller()
    place.engines(2)
    client = place.client(2)
    os.kill(client[0].apply_sync(os.getpid), signal.SIGKILL)
    wait_until(lambda: client.ids == [1], "the engine's end")


def test_requests_behind_one_that_kills_fail_as_well(place):
    place.controller()
    place.engines(2)
    client = place.client(2)
    client[:].apply_sync(die_of, "nothing")
    first = client[0].apply_async(die_of, "os._exit")
    second = client[0].apply_async(lambda: 1)
    for result in (first, second):
        with pytest.raises(error.RemoteError, match="EngineError"):
            get(result)


def test_tasks_behind_one_that_kills_go_elsewhere(place):
    place.controller("--hwm=0")
    place.engines(2)
    client = place.client(2)
    client[:].apply_sync(die_of, "nothing")
    view = client.load_balanced_view()
    view.retries = 0
    results = [view.apply_async(lambda: 1) for _ in range(20)]
    deadly = view.apply_async(die_of, "kill -9")
    results += [view.apply_async(lambda: 1) for _ in range(20)]
    with pytest.raises(error.RemoteError, match="EngineError"):
        get(deadly)
    assert [get(result) for result in results] == [1] * 40


def test_no_task_is_sent_after_one_that_kills(place):
    """The answer about the deadly one is no free place."""
    place.controller("--hwm=1")
    place.engines(3)
    client = place.client(3)
    client[:].apply_sync(die_of, "nothing")
    view = client.load_balanced_view()
    view.retries = 0
    deadly = view.apply_async(die_of, "kill -9")
    results = [view.apply_async(lambda: 1) for _ in range(60)]
    with pytest.raises(error.RemoteError, match="EngineError"):
        get(deadly)
    assert [get(result) for result in results] == [1] * 60


def test_a_task_behind_one_that_kills_the_only_engine_waits_for_the_next(place):
    place.controller("--hwm=8")
    place.engines(1)
    client = place.client(1)
    (kernel,) = kernel_pids(client)
    running = client[0].execute("import time; print('begun', flush=True); time.sleep(1000)", block=False)
    wait_until(lambda: "begun" in running.stdout, "the request that runs")
    tasks = [client.load_balanced_view().apply_async(lambda n: n, n) for n in range(8)]
    wait_until(lambda: client.queue_status()[0]["tasks"] > 0, "a task's way to the engine")
    # Whether it lies there already or is on its way to it makes no difference.
    os.kill(kernel, signal.SIGKILL)
    with pytest.raises(error.RemoteError, match="EngineError"):
        get(running)
    place.engines(1)
    assert [get(task) for task in tasks] == list(range(8))


def test_the_last_engine_s_end_is_the_process_s(place):
    place.controller()
    engines = place.engines(1)
    client = place.client(1)
    with pytest.raises(error.RemoteError, match="EngineError"):
        get(client[0].apply_async(os._exit, 3))
    assert engines.wait() == KERNELS_DIED


def test_kill_9_of_the_engine_process(place):
    """Its kernels die with it, and the controller knows at once."""
    place.controller()
    engines = place.engines(2)
    client = place.client(2)
    pids = kernel_pids(client)
    result = client[:].apply_async(time.sleep, 600)
    wait_until(lambda: client.queue_status(0)["queue"] == 1, "the request")
    engines.kill()
    with pytest.raises(error.CompositeError, match="EngineError|2 errors"):
        get(result)
    wait_until(lambda: client.ids == [], "the engines' end")
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the kernels' end")


def test_a_stopped_engine_is_not_declared_dead_at_once(place):
    """SIGSTOP and SIGCONT of the kernel: the engine's heart goes on beating."""
    place.controller("--ping=200")
    place.engines(1)
    client = place.client(1)
    pid = kernel_pids(client)[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        result = client[0].apply_async(lambda: 1)
        with pytest.raises((TimeoutError, error.TimeoutError)):
            result.get(timeout=4)
        assert client.ids == [0]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert get(result) == 1


def test_engines_come_back_to_a_controller_that_restarts(place):
    first = place.controller("--reuse")
    place.engines(2)
    place.client(2)
    first.kill()
    place.controller("--reuse")
    assert place.client(2)[:].apply_sync(lambda: 1) == [1, 1]


def test_an_engine_whose_kernel_dies_while_the_controller_is_away_comes_back_as_well(place):
    first = place.controller("--reuse")
    engines = place.engines(1, "--restart=on-failure", "--timeout=0.5")
    (pid,) = kernel_pids(place.client(1))
    first.kill()
    os.kill(pid, signal.SIGKILL)
    engines.wait_for("is started again")
    # One that no controller has ever had gives up in that time.
    assert place.run("engine", "--timeout=2")[0] == FAILED
    place.controller("--reuse")
    assert kernel_pids(place.client(1)) != [pid]


def test_interrupt_of_the_process_interrupts_what_runs(place):
    place.controller()
    engines = place.engines(1)
    client = place.client(1)
    result = client[0].execute("import time; print('begun', flush=True); time.sleep(600)")
    wait_until(lambda: "begun" in (result.stdout or ""), "the begin")
    engines.send_signal(signal.SIGINT)
    with pytest.raises(error.RemoteError, match="KeyboardInterrupt"):
        get(result)
    assert client[0].apply_sync(lambda: 1) == 1


def test_many_engines_start_and_end(place):
    place.controller()
    engines = place.engines(16)
    client = place.client(16)
    assert client.ids == list(range(16))
    assert len(set(kernel_pids(client))) == 16
    assert engines.stop() == 0


@pytest.mark.parametrize("how", [[], ["--spawn"]])
def test_threads_and_children_of_user_code_do_not_stay(place, how):
    place.controller()
    place.engines(1, *how)
    client = place.client(1)

    def leave_behind():
        subprocess.Popen(["sleep", "600"])
        threading.Thread(target=time.sleep, args=(600,)).start()

    client[0].apply_sync(leave_behind)
    # That nothing remains is what the fixture looks for.


@pytest.mark.parametrize("who", ["engine", "fork server"])
def test_what_user_code_has_started_ends_with_whatever_is_killed(place, who):
    place.controller()
    engines = place.engines(2)
    client = place.client(2)
    started = client[:].apply_sync(lambda: subprocess.Popen(["sleep", "600"]).pid)
    server = psutil.Process(client[0].apply_sync(os.getppid))
    (server.kill if who == "fork server" else engines.kill)()
    wait_until(lambda: not any(map(psutil.pid_exists, started)), "the end of what was started")


# ---- Pythons


def fake_python(folder, script):
    path = folder / "python-that-will-not-do"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_no_python_at_all(place, tmp_path):
    place.controller()
    lonely = {"PATH": str(tmp_path), "VIRTUAL_ENV": ""}
    engine = place.start([BINARY, "engine"], lonely)
    assert engine.wait() == FAILED
    assert "no Python" in engine.output and "--python" in engine.output


def test_a_python_that_is_not_there(place):
    place.controller()
    code, output = place.run("engine", "--python=/no/such/python")
    assert code == FAILED
    assert "/no/such/python" in output and "--python" in output


START_METHODS = pytest.mark.parametrize("how", [[], ["--spawn"]], ids=["forked", "spawned"])


@START_METHODS
@pytest.mark.parametrize("script", ["echo it is broken >&2; exit 3", "echo it is broken; exit 3"])
def test_a_python_that_fails_is_named_with_its_words(place, tmp_path, script, how):
    place.controller()
    python = fake_python(tmp_path, script)
    for _ in range(5):
        code, output = place.run("engine", f"--python={python}", *how)
        assert code == FAILED
        # In the error itself, which is the last that is said.
        error = output[output.rindex("ipcluster: ") :]
        assert "it is broken" in error and str(python) in error and "exit status 3" in error, output
    assert place.client().ids == []


@START_METHODS
def test_a_python_that_ends_without_a_word(place, how):
    place.controller()
    code, output = place.run("engine", "--python=/bin/false", *how)
    assert code == FAILED
    assert re.search(r"ipcluster: .*/bin/false.*exit status 1.*wrote nothing", output), output


@START_METHODS
def test_a_python_that_is_not_set_up(place, tmp_path, how):
    """Its standard library is missing: it ends before it runs a line."""
    place.controller()
    python = fake_python(tmp_path, f"PYTHONHOME=/no/where exec '{sys.executable}' \"$@\"")
    code, output = place.run("engine", f"--python={python}", *how)
    assert code == FAILED
    assert "No module named 'encodings'" in output[output.rindex("ipcluster: ") :], output


@START_METHODS
def test_a_python_that_hangs_is_given_up(place, tmp_path, how):
    place.controller()
    python = fake_python(tmp_path, "echo thinking it over >&2; sleep 600")
    code, output = place.run("engine", f"--python={python}", "--start-timeout=0.5", *how)
    assert code == FAILED
    error = output[output.rindex("ipcluster: ") :]
    assert "not ready" in error and "0.5 s" in error and "--start-timeout" in error, output
    assert str(python) in error and "thinking it over" in error, output
    # That neither the script nor its sleep is left is what the fixture looks for.


@START_METHODS
def test_a_python_that_takes_long_is_waited_for_aloud(place, tmp_path, how):
    place.controller()
    python = fake_python(tmp_path, "sleep 600")
    engine = place.ipcluster("engine", f"--python={python}", "--start-timeout=0", *how)
    engine.wait_for("WARNING .* has been starting for 5 s: waiting for .*import")
    assert engine.stop() == 0


@START_METHODS
def test_start_up_code_that_ends_its_kernel(place, how):
    place.controller()
    code, output = place.run("engine", "--c=print('the', 'end', flush=True); import os; os._exit(7)", *how)
    assert code == FAILED
    error = output[output.rindex("ipcluster: ") :]
    assert "before it was ready: exit status 7" in error and "the end" in error, output


def test_start_up_code_that_never_ends(place):
    place.controller()
    code, output = place.run("engine", "--c=print('so', 'far', flush=True)\nwhile True: pass", "--start-timeout=8")
    assert code == FAILED
    error = output[output.rindex("ipcluster: ") :]
    assert "not ready within 8.0 s" in error and "so far" in error, output


@START_METHODS
def test_what_start_up_code_writes_is_in_the_log(place, how):
    place.controller()
    engines = place.engines(1, "--c=import sys; print('to', 'stdout'); sys.stderr.write('to ' + 'stderr')", *how)
    assert "to stdout" in engines.output and "to stderr" in engines.output


@START_METHODS
@pytest.mark.parametrize(
    "make, said",
    [
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text("print()"), "cannot be executed"),
        (lambda path: (path.write_text("no program"), path.chmod(0o755)), "not found"),
        (lambda path: (path.write_text("#!/no/where"), path.chmod(0o755)), "No such file"),
    ],
    ids=["folder", "no permission", "no program", "no interpreter"],
)
def test_what_is_no_python(place, tmp_path, make, said, how):
    place.controller()
    path = tmp_path / "thing"
    make(path)
    code, output = place.run("engine", f"--python={path}", *how)
    assert code == FAILED
    error = output[output.rindex("ipcluster: ") :]
    assert str(path) in error and said in error, output


@START_METHODS
def test_a_python_that_is_too_old_says_so(place, tmp_path, how):
    """This Python, told that it is an old one."""
    place.controller()
    old = tmp_path / "old.py"
    old.write_text(
        "import sys\nsys.version_info = (3, 5, 9)\nsys.argv = sys.argv[2:]\nexec(compile(sys.argv[0], 'x', 'exec'))"
    )
    python = fake_python(tmp_path, f"exec '{sys.executable}' '{old}' \"$@\"")
    code, output = place.run("engine", f"--python={python}", *how)
    assert code == FAILED
    error = output[output.rindex("ipcluster: ") :]
    assert "too old" in error and "Python 3.5" in error and "--python" in error, output


@pytest.mark.parametrize("name", ["python2", "python2.7", "python3.6", "python3.7"])
def test_pythons_of_old_say_so(place, name):
    import shutil

    python = shutil.which(name)
    if not python or subprocess.run([python, "--version"], capture_output=True).returncode != 0:
        pytest.skip(f"there is no {name} here")
    place.controller()
    code, output = place.run("engine", f"--python={python}")
    assert code == FAILED
    assert "too old" in output and "--python" in output


@START_METHODS
def test_a_python_without_ipyparallel_executes_and_says_what_is_missing(place, bare_python, how):
    place.controller()
    engines = place.engines(1, f"--python={bare_python}", *how)
    engines.wait_for(f"ipyparallel is missing from {bare_python}.*{bare_python} -m pip install ipyparallel")
    client = place.client(1)
    result = client[0].execute("print(6 * 7)")
    get(result)
    result.wait_for_output(GENEROUS)
    assert result.stdout == "42\n"
    with pytest.raises(error.RemoteError, match="pip install ipyparallel"):
        client[0].apply_sync(lambda: 1)
    assert running_engines(engines) == [0]
