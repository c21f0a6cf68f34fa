"""`ipcluster start`, `stop`, `engines`, `list` and `clean`, with the real executable and the real client."""

import contextlib
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from cluster_fixtures import BINARY, PATIENCE, clusters, restart_engines, wait_until  # noqa: F401

ALREADY_STARTED, ALREADY_STOPPED, NO_CLUSTER = 10, 11, 12


# ---- in order


def test_a_daemon_is_up_when_start_returns(clusters):
    out = clusters.ok("start", "-n", "3", "--daemonize")
    assert "created profile" in out
    with clusters.client() as client:
        assert client.ids == [0, 1, 2]
        assert client[:].apply_sync(lambda: 7) == [7, 7, 7]
    clusters.ok("stop")
    assert clusters.processes() == []
    clusters.assert_nothing_left()
    assert clusters.run("stop").returncode == ALREADY_STOPPED


def test_the_daemon_has_no_terminal_of_its_starter(clusters):
    """A caller that reads the command's output to its end must not wait for the cluster's."""
    clusters.ok("start", "-n", "1", "--daemonize", timeout=20)
    supervisor = psutil.Process(clusters.pid("supervisor"))
    assert os.getsid(supervisor.pid) == supervisor.pid
    assert supervisor.terminal() is None
    log = clusters.log("ipcluster", supervisor.pid)
    assert "the cluster is up with 1 engine" in log
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_the_foreground_tells_what_happens(clusters):
    running = clusters.start(2)
    lines = running.text().splitlines()
    for text in (
        "the controller is ready",
        "starting 2 engines",
        "engine 0 is registered: 1 of 2",
        "engine 1 is registered: 2 of 2",
        "the cluster is up with 2 engines",
    ):
        assert sum(text in line for line in lines) == 1, running.text()
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    assert running.text().splitlines()[-1].endswith("the cluster has stopped")
    clusters.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_stop_it_as_well(clusters, number):
    running = clusters.start(1)
    running.signal(number)
    assert running.wait() == 0
    clusters.assert_nothing_left()


def test_who_starts_engines_without_ipyparallel_is_told_once(clusters, bare_python):
    out = clusters.ok("start", "-n", "2", "--daemonize", f"--python={bare_python}")
    assert out.count(f"{bare_python} -m pip install ipyparallel") == 1
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_a_second_start_is_refused_and_names_the_first(clusters):
    running = clusters.start(1)
    again = clusters.run("start", "-n", "1")
    assert again.returncode == ALREADY_STARTED
    assert str(running.pid) in again.stdout
    assert "ipcluster stop" in again.stdout
    again = clusters.run("start", "-n", "1", "--daemonize")
    assert again.returncode == ALREADY_STARTED
    with clusters.client() as client:
        assert client.ids == [0]
    clusters.ok("stop")
    assert running.wait() == 0
    clusters.assert_nothing_left()


def test_a_controller_alone_refuses_a_cluster(clusters):
    controller = clusters.spawn("controller")
    controller.wait_for_line("listens on")
    refused = clusters.run("start", "-n", "1", "--daemonize")
    assert refused.returncode == ALREADY_STARTED, refused.stdout
    assert f"process {controller.pid}" in refused.stdout
    assert len(clusters.files()) == 3, "its connection files and its lock stay"
    controller.signal(signal.SIGTERM)
    assert controller.wait() == 0
    clusters.assert_nothing_left()


def test_clusters_of_one_profile_are_told_apart(clusters):
    for cluster_id in ("a", "b"):
        clusters.ok("start", "-n", "1", "--daemonize", f"--cluster-id={cluster_id}")
    clusters.ok("stop", "a")
    listed = clusters.ok("list").splitlines()
    assert [line.split()[1] for line in listed] == ["CLUSTER", "b"]
    with clusters.client("b") as client:
        assert client.ids == [0]
    clusters.ok("stop", "--all")
    clusters.ok("stop", "--all")
    assert clusters.run("stop", "b").returncode == ALREADY_STOPPED
    clusters.assert_nothing_left()


def test_launchers_go_by_the_names_of_ipyparallel_s_classes(clusters):
    classes = ["--engines=ipyparallel.cluster.launcher.LocalEngineSetLauncher", "--controller=LocalControllerLauncher"]
    clusters.ok("start", "-n", "1", "--daemonize", *classes)
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_secrets_are_no_arguments(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    file = clusters.profile_dir / "security" / "ipcontroller-client.json"
    key = json.loads(file.read_text())["key"]
    for process in clusters.processes():
        assert key not in " ".join(process.cmdline())
    assert key not in json.dumps(clusters.run_file())
    clusters.ok("stop")
    clusters.assert_nothing_left()


# ---- starts that fail


@pytest.mark.parametrize("daemonize", [[], ["--daemonize"]])
@pytest.mark.parametrize(
    "args, code, says",
    [
        (["--engines=slrm"], 2, "there are: local"),
        (["--controller=shs"], 2, "there are: local"),
        (["--controller=sshproxy"], 2, "there are: local"),
        (["--controller=ssh"], 2, "[launcher.SSHControllerLauncher]"),
        (["--python=/no/such/python"], 1, "no such Python: /no/such/python"),
        (["--python=/bin/false"], 1, "/bin/false ended before it was ready"),
        (["--", "--nosuchflag"], 2, "--nosuchflag"),
        (["--", "--port=70000"], 2, "70000"),
        (["--port=70000"], 2, "70000"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(
    clusters, daemonize, args, code, says
):
    done = clusters.run("start", "-n", "1", *daemonize, *args)
    assert done.returncode == code, done.stdout
    assert says in done.stdout
    clusters.assert_nothing_left()


def test_a_daemon_without_its_engines_in_time_is_taken_down(clusters):
    done = clusters.run("start", "-n", "1", "--daemonize", "--engine-timeout=0")
    assert done.returncode == 1
    assert "--engine-timeout allows more time" in done.stdout
    clusters.assert_nothing_left()


def test_a_python_without_ipython_still_serves_or_says_why(clusters):
    """Whatever it is, it is no silent half-started cluster."""
    done = clusters.run(
        "start", "-n", "1", "--daemonize", "--python=/usr/bin/python3", "--engine-timeout=20"
    )
    if done.returncode == 0:
        clusters.ok("stop")
    else:
        assert "the end of" in done.stdout
    clusters.assert_nothing_left()


def test_engines_that_are_late_are_waited_for_in_the_foreground(clusters):
    running = clusters.spawn("start", "-n", "1", "--engine-timeout=0")
    running.wait_for_line("0 of 1 engine registered")
    running.wait_for_line("the cluster is up")
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    clusters.assert_nothing_left()


@pytest.mark.parametrize("line", ["the controller is ready", "starting 4 engines", "engine 0 is"])
@pytest.mark.parametrize("daemonize", [[], ["--daemonize"]])
def test_an_interrupted_start_leaves_nothing(clusters, line, daemonize):
    running = clusters.spawn("start", "-n", "4", "--delay=0.1", *daemonize)
    running.wait_for_line(line)
    running.signal(signal.SIGINT)
    code = running.wait()
    # It may have been up already.
    if code == 0 and daemonize:
        clusters.ok("stop")
    assert code in (0, 130), running.text()
    if code == 130:
        assert "the cluster has stopped" in running.text(), "it says what becomes of what was started"
    clusters.assert_nothing_left()


def test_an_interrupted_start_in_the_background_says_that_it_cleans_up(clusters):
    # It would wait for long.
    running = clusters.spawn("start", "-n", "1", "--delay=1000", "--daemonize")
    running.wait_for_line("the controller is ready")
    running.signal(signal.SIGINT)
    assert running.wait() == 130
    text = running.text()
    assert text.index("interrupted: ending what was started") < text.index("the cluster has stopped")
    clusters.assert_nothing_left()


@pytest.mark.parametrize("verb", ["start", "engines"])
def test_what_goes_to_the_background_with_a_log_file_says_so_at_the_terminal(clusters, verb):
    if verb == "engines":
        clusters.ok("start", "-n", "0", "--daemonize")
    told = clusters.ok(verb, "-n", "1", "--daemonize", "--log-to-file")
    assert "engine 0 is registered" in told and "it runs in the background" in told, told
    assert told.count("Sending logs to") == 1
    clusters.ok("stop")
    clusters.assert_nothing_left()


@pytest.mark.parametrize("line", ["the controller is ready", "starting 4 engines"])
def test_a_front_that_is_killed_takes_the_half_started_cluster_along(clusters, line):
    running = clusters.spawn("start", "-n", "4", "--delay=0.5", "--daemonize")
    running.wait_for_line("the controller is ready")
    running.process.kill()
    running.wait()
    clusters.assert_nothing_left()


def test_two_interruptions_kill(clusters):
    running = clusters.start(1)
    # An engine that is stopped does not end when it is asked to.
    engines = psutil.Process(clusters.pid("engines"))
    engines.suspend()
    running.signal(signal.SIGINT)
    running.wait_for_line("stopping")
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    assert "killing what is left" in running.text()
    clusters.assert_nothing_left()


# ---- deaths


def test_a_killed_supervisor_takes_all_along(clusters):
    clusters.ok("start", "-n", "2", "--daemonize")
    os.kill(clusters.pid("supervisor"), signal.SIGKILL)
    clusters.wait_until_gone()
    # Nobody could remove its files, but nobody believes them.
    assert "False" in clusters.ok("list")
    (listed,) = json.loads(clusters.ok("list", "-o", "json"))
    assert listed["state"] == "stale" and "controller" not in listed
    assert clusters.run("stop").returncode == ALREADY_STOPPED
    clusters.assert_nothing_left()


def test_after_a_crash_start_just_starts(clusters):
    clusters.ok("start", "-n", "2", "--daemonize")
    os.kill(clusters.pid("supervisor"), signal.SIGKILL)
    # At once, while the others are still ending.
    clusters.ok("start", "-n", "2", "--daemonize")
    with clusters.client() as client:
        assert client.ids == [0, 1]
    for process in clusters.processes():
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    clusters.wait_until_gone()
    clusters.ok("start", "-n", "1", "--daemonize")
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_a_killed_controller_ends_the_cluster(clusters):
    running = clusters.start(2)
    os.kill(clusters.pid("controller"), signal.SIGKILL)
    assert running.wait() == 1
    assert "the controller has died (killed by signal 9)" in running.text()
    clusters.assert_nothing_left()


def test_killed_engines_are_started_again(clusters):
    running = clusters.start(2)
    before = clusters.pid("engines")
    os.kill(before, signal.SIGKILL)
    running.wait_for_line("the engines have died (killed by signal 9)")
    for line in ("engine 0 has left", "engine 1 has left", "engine 3 has come"):
        running.wait_for_line(line)
    assert clusters.pid("engines") != before
    with clusters.client() as client:
        wait_until(lambda: client.ids == [2, 3], "the new engines")
        assert client[:].apply_sync(lambda: 7) == [7, 7]
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    clusters.assert_nothing_left()


def test_engines_that_die_again_and_again_end_the_cluster(clusters):
    running = clusters.start(1)
    for starts in range(1, 5):
        wait_until(
            lambda starts=starts: running.text().count("starting 1 engine (") == starts,
            "the engines' next start",
        )
        pids = re.findall(r"starting 1 engine \(process (\d+)\)", running.text())
        os.kill(int(pids[-1]), signal.SIGKILL)
    assert running.wait() == 1
    assert "giving up" in running.text()
    clusters.assert_nothing_left()


def test_a_killed_fork_server_is_the_engines_death(clusters):
    running = clusters.start(2)
    clusters.fork_server().kill()
    running.wait_for_line("engine 3 has come")
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    clusters.assert_nothing_left()


def test_a_killed_kernel_is_an_engine_that_leaves(clusters):
    running = clusters.start(2)
    with clusters.client() as client:
        pid = client[0].apply_sync(os.getpid)
        os.kill(pid, signal.SIGKILL)
        running.wait_for_line("engine 0 has left: 1 remain")
        running.wait_for_line("engine 0 has ended: ")
        assert "SIGKILL" in running.text()
        wait_until(lambda: client.ids == [1], "the client's news")
        assert client[1].apply_sync(lambda: 7) == 7
    assert "have died" not in running.text()
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    clusters.assert_nothing_left()


def test_kernels_that_are_to_stay_dead_stay_so(clusters):
    """Also when the last of a process dies: the engines' process ends, and nobody starts it again."""
    running = clusters.start(2)
    engines = psutil.Process(clusters.pid("engines"))
    with clusters.client() as client:
        for kernel, left in [(0, [1]), (1, [])]:
            os.kill(client[kernel].apply_sync(os.getpid), signal.SIGKILL)
            wait_until(lambda left=left: client.ids == left, "the client's news")
        running.wait_for_line("the engines have ended because their kernels died")
        assert not engines.is_running()
        # Whoever wants engines gets them, and these are the only ones that come.
        clusters.ok("engines", "-n", "1", "--daemonize")
        wait_until(lambda: client.ids == [2], "the engine that was added")
        assert client[2].apply_sync(lambda: 7) == 7
    assert "again in" not in running.text()
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    clusters.assert_nothing_left()


def test_a_closed_terminal_ends_it(clusters):
    """The terminal's end is a hang-up for its foreground processes."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(BINARY, [BINARY, "start", "-n", "2"], clusters.env)
    text = b""
    while b"the cluster is up" not in text:
        text += os.read(terminal, 4096)
    os.close(terminal)
    os.waitpid(child, 0)
    clusters.assert_nothing_left()


def test_ctrl_c_at_a_terminal_reaches_the_supervisor_alone(clusters):
    child, terminal = pty.fork()
    if child == 0:
        os.execve(BINARY, [BINARY, "start", "-n", "2"], clusters.env)
    text = b""
    while b"the cluster is up" not in text:
        text += os.read(terminal, 4096)
    engines = clusters.pid("engines")
    os.write(terminal, b"\x03")
    while b"the cluster has stopped" not in text:
        text += os.read(terminal, 4096)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "interrupting" not in clusters.log("ipengine", engines)
    clusters.assert_nothing_left()


def test_nohup_survives_a_hang_up(clusters):
    running = clusters.spawn(
        "start",
        "-n",
        "1",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    running.wait_for_line("the cluster is up")
    running.signal(signal.SIGHUP)
    with clusters.client() as client:
        assert client[0].apply_sync(lambda: 7) == 7
    clusters.ok("stop")
    assert running.wait() == 0
    clusters.assert_nothing_left()


def test_busy_engines_end_too(clusters):
    clusters.ok("start", "-n", "2", "--daemonize")
    with clusters.client() as client:
        # One that is in C, and one that refuses to be interrupted.
        client[0].apply_async(lambda: __import__("time").sleep(1000))

        def stubborn():
            import time

            while True:
                try:
                    time.sleep(1000)
                except KeyboardInterrupt:
                    pass

        client[1].apply_async(stubborn)
        wait_until(
            lambda: all(status["tasks"] + status["queue"] for status in client.queue_status().values() if isinstance(status, dict)),
            "the tasks' arrival",
        )
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_a_supervisor_that_does_not_answer_is_killed_with_all_it_started(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    supervisor = psutil.Process(clusters.pid("supervisor"))
    supervisor.suspend()
    out = clusters.ok("stop")
    assert "was killed" in out
    clusters.assert_nothing_left()


def test_broken_files_do_not_stop_a_start(clusters):
    clusters.ok("start", "-n", "0", "--daemonize")
    clusters.ok("stop")
    for path in ("security/cluster-.json", "pid/ipcluster.json"):
        (clusters.profile_dir / path).write_text("{")
    assert "unreadable" in clusters.ok("list")
    clusters.ok("start", "-n", "1", "--daemonize")
    clusters.ok("stop")
    clusters.assert_nothing_left()


# ---- asked for by others


def test_a_client_can_shut_it_down(clusters):
    running = clusters.start(1)
    with clusters.client() as client:
        client.shutdown(hub=True, block=True)
    assert running.wait() == 0, running.text()
    clusters.assert_nothing_left()


def test_engines_that_a_client_shuts_down_stay_away(clusters):
    running = clusters.start(2)
    with clusters.client() as client:
        client.shutdown(block=True)
        running.wait_for_line("the engines have ended as they were asked to")
    added = clusters.spawn("engines", "-n", "1")
    added.wait_for_line("1 engine added")
    with clusters.client() as client:
        assert client.ids == [2]
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    assert added.wait() == 0
    clusters.assert_nothing_left()


def test_a_signal_for_the_engines_reaches_them(clusters):
    running = clusters.start(2)
    with clusters.client() as client:

        def listen():
            import signal

            global heard
            heard = []
            signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))

        client[:].apply_sync(listen)
        running.signal(signal.SIGUSR1)
        wait_until(
            lambda: client[:].apply_sync(lambda: len(heard)) == [1, 1],  # noqa: F821
            "the signal",
        )
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    clusters.assert_nothing_left()


def test_another_signal_can_stop_it(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    assert clusters.run("stop", "--signal=NOSUCH").returncode == 2
    clusters.ok("stop", "--signal=9")
    clusters.assert_nothing_left()


# ---- more engines


def test_engines_are_added_and_taken_away(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    added = clusters.spawn("engines", "-n", "2")
    added.wait_for_line("2 engines added")
    assert clusters.ok("list").splitlines()[1].split()[3] == "3"
    with clusters.client() as client:
        assert client.ids == [0, 1, 2]
        added.signal(signal.SIGINT)
        assert added.wait() == 0
        wait_until(lambda: client.ids == [0], "their departure")
    assert clusters.ok("list").splitlines()[1].split()[3] == "1"
    clusters.ok("engines", "-n", "2", "--daemonize")
    with clusters.client() as client:
        assert client.ids == [0, 3, 4]
    clusters.ok("stop")
    assert clusters.processes() == []
    clusters.assert_nothing_left()


def test_engines_that_cannot_be_added_leave_the_cluster_alone(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    done = clusters.run("engines", "-n", "1", "--daemonize", "--python=/bin/false")
    assert done.returncode == 1
    assert "/bin/false ended before it was ready" in done.stdout
    with clusters.client() as client:
        assert client.ids == [0]
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_added_engines_end_when_the_controller_is_killed(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    clusters.ok("engines", "-n", "1", "--daemonize")
    os.kill(clusters.pid("controller"), signal.SIGKILL)
    clusters.assert_nothing_left()


def test_engines_join_a_controller_alone(clusters):
    controller = clusters.spawn("controller")
    controller.wait_for_line("listens on")
    clusters.ok("engines", "-n", "1", "--daemonize")
    with clusters.client() as client:
        assert client.ids == [0]
    controller.signal(signal.SIGTERM)
    assert controller.wait() == 0
    clusters.assert_nothing_left()


def test_engines_without_a_cluster_are_refused(clusters):
    clusters.ok("start", "-n", "0", "--daemonize")
    clusters.ok("stop")
    for daemonize in ([], ["--daemonize"]):
        done = clusters.run("engines", "-n", "1", *daemonize)
        assert done.returncode == NO_CLUSTER
        assert "ipcluster start" in done.stdout
    done = clusters.run("engines", "--profile=nope")
    assert done.returncode == NO_CLUSTER
    assert "nope" in done.stdout
    clusters.assert_nothing_left()


# ---- list and clean


def test_what_is_stale_is_cleaned_and_nothing_else(clusters):
    clusters.ok("start", "-n", "1", "--daemonize", "--cluster-id=dead")
    clusters.ok("start", "-n", "1", "--daemonize", "--cluster-id=alive")
    supervisor = psutil.Process(clusters.pid("supervisor", "dead"))
    dead = [supervisor, *supervisor.children(recursive=True)]
    supervisor.kill()
    assert not psutil.wait_procs(dead, PATIENCE)[1]
    listed = [line.split() for line in clusters.ok("list").splitlines()[1:]]
    assert [row[1:3] for row in listed] == [["alive", "True"], ["dead", "False"]]
    clusters.ok("clean")
    assert not [name for name in clusters.files() if "dead" in name]
    with clusters.client("alive") as client:
        assert client.ids == [0]
    logs = [path.name for path in (clusters.profile_dir / "log").glob("*-alive-*.log")]
    assert len(logs) == 3, "a running cluster keeps its logs"
    clusters.ok("stop", "alive")
    clusters.ok("clean")
    assert not list((clusters.profile_dir / "log").iterdir())
    clusters.assert_nothing_left()


def test_clean_removes_what_ipyparallel_s_would(clusters):
    clusters.ok("start", "-n", "0", "--daemonize")
    clusters.ok("stop")
    log = clusters.profile_dir / "log" / "test.log"
    log.write_text("x")
    for name in ("cluster-abc.json", "ipcontroller-client.json", "ipcontroller-y-engine.json"):
        (clusters.profile_dir / "security" / name).write_text("{}")
    listed = clusters.ok("list").splitlines()
    assert len(listed) == 2 and "False" in listed[1]
    clusters.ok("clean", "--all")
    assert not log.exists()
    clusters.assert_nothing_left()


# ---- with ipyparallel's own programs


def test_ipyparallel_sees_and_uses_a_cluster(clusters):
    import ipyparallel as ipp

    clusters.ok("start", "-n", "2", "--daemonize")
    path = clusters.profile_dir / "security" / "cluster-.json"
    before = path.read_text()
    assert clusters.python("list") == clusters.ok("list")
    (theirs,) = json.loads(clusters.python("list", "-o", "json"))
    (ours,) = json.loads(clusters.ok("list", "-o", "json"))
    assert {key: ours[key] for key in theirs} == theirs, "with more of our own"
    cluster = ipp.Cluster.from_file(profile_dir=str(clusters.profile_dir))
    assert cluster.n == 2
    with cluster.connect_client_sync() as client:
        client.wait_for_engines(2, timeout=PATIENCE)
        assert client[:].apply_sync(lambda: 7) == [7, 7]
    assert path.read_text() == before
    clusters.ok("stop")
    clusters.assert_nothing_left()


def mark_and_sleep(folder):
    import os
    import pathlib
    import time

    pathlib.Path(folder, f"asleep{os.getpid()}").touch()
    time.sleep(1000)


def test_ipyparallel_s_cluster_starts_this_controller_and_these_engines(clusters, tmp_path):
    import ipyparallel as ipp
    from traitlets.config import Config

    config = Config()
    config.LocalControllerLauncher.controller_cmd = [BINARY, "controller"]
    config.LocalEngineLauncher.engine_cmd = [BINARY, "engine"]
    with pytest.MonkeyPatch.context() as environment:
        # The launchers hand on what they have themselves.
        for name in ("IPYTHONDIR", "VIRTUAL_ENV", "PYTHONPATH"):
            environment.setenv(name, clusters.env[name])
        cluster = ipp.Cluster(n=2, config=config, profile_dir=str(clusters.profile_dir), cluster_id="api")
        with cluster as client:
            client.wait_for_engines(2, timeout=PATIENCE, interactive=False)
            assert client[:].apply_sync(lambda: 7) == [7, 7]
            (listed,) = json.loads(clusters.ok("list", "-o", "json"))
            assert (listed["state"], listed["n_engines"], listed["cluster_id"]) == ("running", 2, "api")
            status = json.loads(clusters.ok("status", "--cluster-id=api", "-o", "json"))
            assert status["controller"]["pid"] == listed["controller_pid"] == cluster.controller.pid
            restart_engines(clusters, client, 1, options=["--cluster-id=api"])
            # Idle kernels would be interrupted at any time from here on.
            asleep = client[:].apply_async(mark_and_sleep, str(tmp_path))
            wait_until(lambda: len(list(tmp_path.glob("asleep*"))) == 2, "both to sleep")
            cluster.signal_engines_sync(signal.SIGINT)
            with pytest.raises(ipp.CompositeError, match="KeyboardInterrupt"):
                asleep.get(PATIENCE)
            assert client[:].apply_sync(lambda: 7) == [7, 7]
    clusters.assert_nothing_left()


def test_joblib_uses_a_cluster_by_its_file(clusters):
    import ipyparallel as ipp
    import joblib

    clusters.ok("start", "-n", "2", "--daemonize")
    cluster = ipp.Cluster.from_file(profile_dir=str(clusters.profile_dir))
    ipp.register_joblib_backend()
    with cluster.connect_client_sync() as client:
        with joblib.parallel_backend("ipyparallel", view=client.load_balanced_view()):
            found = joblib.Parallel()(joblib.delayed(pow)(n, 2) for n in range(20))
    assert found == [n**2 for n in range(20)]
    clusters.ok("stop")
    clusters.assert_nothing_left()


@pytest.mark.parametrize("daemonize", [False, True])
def test_ipyparallel_stops_a_cluster(clusters, daemonize):
    if daemonize:
        clusters.ok("start", "-n", "2", "--daemonize")
    else:
        running = clusters.start(2)
    clusters.python("stop")
    if not daemonize:
        assert running.wait() == 0, running.text()
    clusters.assert_nothing_left()


def test_a_cluster_of_ipyparallel_is_stopped(clusters):
    clusters.python("start", "-n", "1", "--daemonize")
    listed = clusters.ok("list").splitlines()[1].split()
    assert listed == ["default", "''", "True", "1", "Local"]
    assert clusters.run("start", "-n", "1").returncode == ALREADY_STARTED
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_what_a_controller_of_ipyparallel_leaves_when_it_is_killed_ends_as_well(clusters):
    clusters.python("start", "-n", "1", "--daemonize")
    file = clusters.profile_dir / "security" / "cluster-.json"
    controller = json.loads(file.read_text())["controller"]["state"]["pid"]
    assert len(psutil.Process(controller).children()) > 1
    # It does not hear SIGTERM, and cannot end its schedulers.
    os.kill(controller, signal.SIGSTOP)
    clusters.ok("stop")
    clusters.wait_until_gone()


def test_engines_join_a_controller_of_ipyparallel(clusters):
    process = subprocess.Popen(
        [sys.executable, "-m", "ipyparallel.controller"],
        env=clusters.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    clusters.started.append(process)
    file = clusters.profile_dir / "security" / "ipcontroller-client.json"
    wait_until(file.exists, "the connection file")
    clusters.ok("engines", "-n", "1", "--daemonize")
    with clusters.client() as client:
        assert client.ids == [0]
    process.terminate()
    process.wait(PATIENCE)
    clusters.assert_nothing_left()


def test_settings_on_the_command_line_reach_the_part_that_they_are_for(clusters):
    out = clusters.ok(
        "start", "-n", "1", "--daemonize",
        "--TaskScheduler.scheme_name=lru",
        "--Session.key=of-my-own",
        "--IPEngine.startup_command=started = 7",
        "--LocalEngineLauncher.environment=MARK=here",
        "--LocalEngineSetLauncher.delay=3",
    )  # fmt: skip
    assert "LocalEngineSetLauncher.delay has no effect" in out
    with clusters.client() as client:
        assert client._task_scheme == "lru"
        assert client.session.key == b"of-my-own"
        assert client[0]["started"] == 7
        assert client[0].apply_sync(lambda: __import__("os").environ["MARK"]) == "here"
    # A key is not shown to whoever lists processes, beyond the command that its user typed.
    for process in clusters.processes():
        if process.pid != clusters.pid("supervisor"):
            assert "of-my-own" not in " ".join(process.cmdline())
    out = clusters.ok("engines", "-n", "1", "--daemonize", "--TaskScheduler.hwm=4")
    assert "TaskScheduler.hwm has no effect" in out
    clusters.ok("stop")
    clusters.assert_nothing_left()


# ---- at random


@pytest.mark.parametrize("seed", [1, 2])
def test_a_start_that_is_cut_short_at_any_moment_leaves_no_process(clusters, seed):
    """`IPCLUSTER_ROUNDS` sets how often each seed strikes."""
    chance = random.Random(seed)
    for _ in range(int(os.environ.get("IPCLUSTER_ROUNDS", "6"))):
        daemonize = chance.choice([[], ["--daemonize"]])
        running = clusters.spawn("start", "-n", "3", *daemonize)
        # The moment itself is what is random here.
        time.sleep(chance.random() * 0.6)
        number = chance.choice(
            [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, None]
        )
        if number is None:
            for process in chance.sample(processes := clusters.processes(), min(1, len(processes))):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        else:
            running.signal(number)
            running.wait()
        clusters.run("stop")
        running.wait()
        clusters.wait_until_gone()
    clusters.ok("start", "-n", "1", "--daemonize")
    clusters.ok("stop")
    clusters.assert_nothing_left()
