"""Engines that run an installed Jupyter kernel: ipykernel's own specification, and one of another language."""

import glob
import json
import os
import signal
import subprocess
import sys
import tempfile

import pytest
from ipyparallel import error
from programs import GENEROUS, children, running_engines, wait_until

FAILED = 1


def get(result):
    return result.get(timeout=GENEROUS)


def run(view, code, **how):
    """The result of a cell, once all of its output is there."""
    result = view.execute(code, silent=False, **how)
    get(result)
    result.wait_for_output(GENEROUS)
    return result


def shown(view, code):
    return run(view, code).execute_result["data"]["text/plain"]


def connection_files():
    return set(glob.glob(os.path.join(tempfile.gettempdir(), "ipcluster-kernel-*.json")))


@pytest.fixture
def python_kernel(place):
    """An engine with ipykernel's own kernel."""
    place.controller()
    engines = place.engines(1, "--kernel=python3")
    engines.wait_for("engine 0: runs the Jupyter kernel python3 .python 3")
    return engines, place.client(1)


@pytest.fixture
def bash(place):
    """How to run engines with a kernel for bash."""
    installed = subprocess.run(
        [sys.executable, "-m", "bash_kernel.install", "--prefix", place.folder / "jupyter"], check=False
    )
    assert installed.returncode == 0
    place.controller()
    where = {"JUPYTER_PATH": str(place.folder / "jupyter/share/jupyter")}

    def start(n=1, *arguments):
        engines = place.ipcluster("engine", "-n", n, "--kernel=bash", *arguments, environment=where)
        wait_until(lambda: len(running_engines(engines)) >= n or engines.ended, f"{n} running engines")
        return engines

    return start


def test_execution_and_its_outputs(python_kernel):
    _, client = python_kernel
    view = client[0]
    assert shown(view, "x = 6; x * 7") == "42"
    result = run(view, "import sys; print('out'); print('err', file=sys.stderr)")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert result.metadata["engine_id"] == 0 and result.metadata["status"] == "ok"
    assert result.metadata["engine_uuid"] == client._engines[0]
    result = run(view, "from IPython.display import HTML, display; display(HTML('<b>'))")
    assert result.outputs[0]["data"]["text/html"] == "<b>"
    # Silently, as execute does by default.
    assert get(view.execute("x = 7"))["status"] == "ok"
    assert shown(view, "x") == "7"


def test_many_requests_keep_their_order_and_their_outputs(python_kernel):
    view = python_kernel[1][0]
    results = [view.execute(f"print({n})", silent=False) for n in range(50)]
    for n, result in enumerate(results):
        get(result)
        result.wait_for_output(GENEROUS)
        assert result.stdout == f"{n}\n"


def test_a_failure_says_where_it_happened_and_stops_those_behind_it(python_kernel):
    view = python_kernel[1][0]
    failing = view.execute("import time; time.sleep(0.5); 1 / 0", silent=False)
    behind = view.execute("y = 1", silent=False)
    with pytest.raises(error.RemoteError, match="ZeroDivisionError") as failed:
        get(failing)
    assert failed.value.engine_info["engine_id"] == 0
    with pytest.raises(error.TaskAborted):
        get(behind)
    assert shown(view, "'y' in globals()") == "False"


def test_functions_are_refused_with_the_reason(python_kernel):
    view = python_kernel[1][0]
    with pytest.raises(error.RemoteError, match="NotImplementedError.*Jupyter kernel.*python3"):
        view.apply_sync(lambda: 1)
    assert shown(view, "1 + 1") == "2"


@pytest.mark.parametrize("how", ["client", "process"])
def test_interrupts(python_kernel, how):
    engines, client = python_kernel
    result = client[0].execute("import time; print('begun', flush=True)\nwhile True: time.sleep(0.01)", silent=False)
    wait_until(lambda: "begun" in (result.stdout or ""), "the begin")
    if how == "client":
        client.send_signal(signal.SIGINT, targets=0, block=True)
    else:
        engines.send_signal(signal.SIGINT)
    with pytest.raises(error.RemoteError, match="KeyboardInterrupt"):
        get(result)
    assert shown(client[0], "1 + 1") == "2"


def test_a_kernel_that_wants_its_interrupts_as_messages(place):
    folder = place.folder / "jupyter/kernels/by-message"
    folder.mkdir(parents=True)
    # It takes no notice of the signal.
    code = "import signal, ipykernel.kernelapp as k; signal.signal(signal.SIGINT, signal.SIG_IGN); k.launch_new_instance()"
    spec = {
        "argv": ["python", "-c", code, "-f", "{connection_file}"],
        "env": {"SEEN": "${HOME} {here}"},
        "interrupt_mode": "message",
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    place.controller()
    place.environment["JUPYTER_PATH"] = str(place.folder / "jupyter")
    place.engines(1, "--kernel=By-Message")
    client = place.client(1)
    assert shown(client[0], "import os; os.environ['SEEN']") == repr(os.environ["HOME"] + " {here}")
    result = client[0].execute("import time; print('begun', flush=True)\nwhile True: time.sleep(0.01)", silent=False)
    wait_until(lambda: "begun" in (result.stdout or ""), "the begin")
    client.send_signal(signal.SIGINT, targets=0, block=True)
    with pytest.raises(error.RemoteError, match="KeyboardInterrupt"):
        get(result)


def test_one_that_dies_is_started_again(place):
    place.controller()
    engines = place.engines(1, "--kernel=python3", "--restart=on-failure")
    client = place.client(1)
    with pytest.raises(error.RemoteError, match="EngineError.*SIGKILL"):
        get(client[0].execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    wait_until(lambda: running_engines(engines) == [0, 0], "another kernel")
    client.wait_for_engines(1, timeout=GENEROUS, interactive=False)
    wait_until(lambda: client.ids == [0], "the engine's return")
    assert shown(client[0], "1 + 1") == "2"


def test_start_up_code_runs_first(place, tmp_path):
    script = tmp_path / "start.py"
    script.write_text("b = a + 1\nprint('hello from the script')\n1 / 0")
    place.controller()
    engines = place.engines(1, "--kernel=python3", "--c=a = 1", f"--s={script}")
    assert "hello from the script" in engines.output
    assert "start-up code failed: ZeroDivisionError" in engines.output
    assert shown(place.client(1)[0], "a, b") == "(1, 2)"


def test_it_ends_in_order_and_leaves_nothing(place, tmp_path):
    """An idle kernel runs its exit handlers; the file with its key is gone."""
    before = connection_files()
    place.controller()
    engines = place.engines(2, "--kernel=python3")
    client = place.client(2)
    assert len(connection_files() - before) == 2
    file = tmp_path / "ended"
    run(client[0], f"import atexit; atexit.register(lambda: open({str(file)!r}, 'w').write('yes'))")
    assert engines.stop() == 0
    assert file.read_text() == "yes"
    assert connection_files() == before


def test_a_busy_one_ends_too(place):
    place.controller()
    engines = place.engines(1, "--kernel=python3")
    client = place.client(1)
    client[0].execute("while True: pass", silent=False)
    wait_until(lambda: client.queue_status(0)["queue"] == 1, "the request")
    assert engines.stop() == 0


def test_an_unknown_one_is_answered_with_those_that_are_there(place):
    place.controller()
    code, output = place.run("engine", "--kernel=klingon")
    assert code == FAILED
    assert "klingon" in output and "python3" in output and "share/jupyter/kernels" in output


def test_one_that_ends_at_once_is_named_with_its_words(place):
    folder = place.folder / "jupyter/kernels/broken"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text('{"argv": ["sh", "-c", "echo no such luck >&2; exit 4"]}')
    place.environment["JUPYTER_PATH"] = str(place.folder / "jupyter")
    place.controller()
    code, output = place.run("engine", "--kernel=broken")
    assert code == FAILED
    error = output[output.rindex("ipcluster: ") :]
    assert "Jupyter kernel broken" in error and "exit status 4" in error and "no such luck" in error


def test_one_that_never_answers_is_given_up(place):
    folder = place.folder / "jupyter/kernels/mute"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text('{"argv": ["sleep", "600"]}')
    place.environment["JUPYTER_PATH"] = str(place.folder / "jupyter")
    place.controller()
    code, output = place.run("engine", "--kernel=mute", "--start-timeout=0.5")
    assert code == FAILED
    assert "not ready within 0.5 s" in output


# ---- another language


def test_bash(bash, place):
    engines = bash(2)
    engines.wait_for("runs the Jupyter kernel bash .bash")
    client = place.client(2)
    view = client[:]
    get(view.execute("NUMBER=$((6 * 7)); cd /"))
    result = run(view, "echo $NUMBER in $PWD")
    assert result.stdout == ["42 in /\n"] * 2
    with pytest.raises(error.CompositeError):
        get(client[:].execute("no_such_command", silent=False))
    assert run(client[1], "echo alive").stdout == "alive\n"


def test_bash_is_interrupted(bash, place):
    bash()
    client = place.client(1)
    result = client[0].execute("echo begun; sleep 600", silent=False)
    wait_until(lambda: "begun" in (result.stdout or ""), "the begin")
    client.send_signal(signal.SIGINT, targets=0, block=True)
    with pytest.raises(error.RemoteError):
        get(result)
    assert run(client[0], "echo alive").stdout == "alive\n"


def test_bash_ends_with_its_engine(bash, place):
    engines = bash()
    client = place.client(1)
    client[0].execute("sleep 600")
    wait_until(lambda: any("sleep" in p.cmdline() for p in children(engines.pid)), "the sleep")
    assert engines.stop() == 0
