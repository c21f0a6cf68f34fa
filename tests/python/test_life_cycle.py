"""`ipcluster status`, `list`, `logs`, `restart`, `stop --engines`, and what each command says to programs."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
from cluster_fixtures import BINARY, PATIENCE, clusters, restart_engines, wait_until  # noqa: F401

ALREADY_STOPPED, NO_CLUSTER = 11, 12


def answer(clusters, *args, code=0):
    """The JSON that a command writes to its standard output, whatever it says beside it."""
    done = subprocess.run(
        [BINARY, *args, "-o", "json"],
        env=clusters.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def fail():
    raise ValueError("on purpose")


def sleep_marked(mark):
    import pathlib
    import time

    pathlib.Path(mark).touch()
    time.sleep(1000)


def pids(client):
    return client[:].apply_sync(os.getpid)


# ---- status


def test_status_tells_of_controller_engines_and_queues(clusters):
    clusters.ok("start", "-n", "2", "--daemonize", "--", "--sqlitedb")
    with clusters.client() as client:
        client[0].apply_sync(os.getpid)
        with pytest.raises(Exception, match="on purpose"):
            client[0].apply_sync(fail)
        with pytest.raises(Exception, match="on purpose"):
            client.load_balanced_view(targets=[0]).apply_sync(fail)
        running = [client[1].apply_async(time.sleep, 1000) for _ in range(3)]
        waiting = client.load_balanced_view(targets=[1])
        tasks = [waiting.apply_async(time.sleep, 1000) for _ in range(4)]

        def queued():
            found = answer(clusters, "status")
            # They go there by different sockets.
            return found["unassigned"] == 3 and found["engines"][1]["queue"] == 3 and found

        status = wait_until(queued, "the tasks in the queue")
        text = clusters.ok("status")
        client.abort(running[1:] + tasks, block=False)
    assert (status["state"], status["cluster_id"], status["error"]) == ("running", "", None)
    controller = status["controller"]
    assert controller["pid"] == clusters.pid("controller")
    assert controller["memory"] > 1 << 20 and controller["seconds"] >= 0 and controller["database"]
    first, second = status["engines"]
    assert (first["id"], first["pid"]) == (0, clusters.pid("engines"))
    assert (first["completed"], first["failed"], first["running"], first["queued"]) == (3, 2, 0, 0)
    # Three of its own, and the one task that it may have at a time.
    assert (second["queue"], second["tasks"], second["running"], second["queued"]) == (3, 1, 1, 3)
    assert status["database"]["fault"] is None and status["database"]["unfinished"] == 7
    for part in ("running", "2, 1 at work", "3 unassigned, 3 waiting at engines", "tasks.db", "busy", "idle"):
        assert part in text, text
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_status_of_nothing_says_what_runs(clusters):
    none = clusters.run("status")
    assert none.returncode == NO_CLUSTER and "there is no profile" in none.stdout
    clusters.ok("start", "-n", "0", "--daemonize", "--cluster-id=a")
    other = clusters.run("status")
    assert other.returncode == NO_CLUSTER
    assert "--profile=default --cluster-id=a" in other.stdout
    clusters.ok("stop", "a")
    gone = clusters.run("status", "--cluster-id=a")
    assert gone.returncode == NO_CLUSTER and "no cluster runs in" in gone.stdout
    clusters.assert_nothing_left()


def test_status_of_a_controller_that_hangs_says_so(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    controller = psutil.Process(clusters.pid("controller"))
    controller.suspend()
    done = clusters.run("status", "--timeout=0.2")
    assert done.returncode == 1
    assert f"process {controller.pid}) runs, but has not answered within 0.2 s" in done.stdout
    document = answer(clusters, "status", "--timeout=0.2", code=1)
    assert document["controller"] is None and "not answered" in document["error"]
    controller.resume()
    assert answer(clusters, "status")["engines"][0]["id"] == 0
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_status_watches_until_the_end(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    watching = clusters.spawn("status", "--watch=0.05", "-o", "json")

    def counts():
        lines = [line for line in watching.text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [len(json.loads(line)["engines"]) for line in lines]

    wait_until(lambda: len(counts()) >= 3, "several looks")
    clusters.ok("engines", "-n", "1", "--daemonize")
    wait_until(lambda: counts()[-1] == 2, "the new engine")
    clusters.ok("stop")
    assert watching.wait() == NO_CLUSTER
    assert "no cluster" in watching.text()
    clusters.assert_nothing_left()


class Wire:
    """A way to a port of this machine, which can be cut and is made again by whoever connects."""

    def __init__(self, port):
        self.to = port
        self.pairs = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.to))
                self.pairs.append((near, far))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=(one, other), daemon=True).start()

    def carry(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def cut(self):
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        return len(pairs)


def test_status_goes_on_when_its_connection_breaks(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    clusters.ok("profile", "create", "far")
    file = json.loads((clusters.profile_dir / "security" / "ipcontroller-client.json").read_text())
    wires = [Wire(file["registration"]), Wire(file["notification"])]
    file["registration"], file["notification"] = (wire.port for wire in wires)
    (clusters.folder / "profile_far" / "security" / "ipcontroller-client.json").write_text(json.dumps(file))
    watching = clusters.spawn("status", "--profile=far", "--watch=0.05", "-o", "json")

    def looks():
        lines = watching.text().splitlines()
        return sum(1 for line in lines if line.startswith("{") and line.endswith("}") and json.loads(line)["engines"])

    for _ in range(3):
        before = looks()
        wait_until(lambda: looks() > before + 2, "looks")
        assert sum(wire.cut() for wire in wires) > 0
    before = looks()
    wait_until(lambda: looks() > before + 2, "looks after the connection was lost")
    assert watching.process.poll() is None
    for wire in wires:
        wire.listener.close()
        wire.cut()
    assert watching.wait() == NO_CLUSTER, "nobody listens there any more"
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_status_at_a_terminal_is_written_over_itself(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    child, terminal = pty.fork()
    if child == 0:
        os.execve(BINARY, [BINARY, "status", "--watch=0.05"], clusters.env)
    text = b""
    # Up by as many lines as were written, and away with them.
    while b"\x1b[8A\x1b[J" not in text:
        text += os.read(terminal, 4096)
    os.kill(child, signal.SIGINT)
    os.waitpid(child, 0)
    os.close(terminal)
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_status_of_ipyparallel_s_controller_has_what_that_tells(clusters):
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
    status = answer(clusters, "status")
    (engine,) = status["engines"]
    assert (engine["id"], engine["failed"], status["controller"]) == (0, None, None)
    assert "which tells no more of itself" in clusters.ok("status")
    process.terminate()
    process.wait(PATIENCE)
    clusters.assert_nothing_left()


@pytest.mark.parametrize(
    "args", [("--watch=0",), ("--watch=x",), ("--timeout=-1",), ("--timeout=nan",), ("-o", "xml"), ("extra",)]
)
def test_a_wrong_call_of_status_is_refused(clusters, args):
    assert clusters.run("status", *args).returncode == 2


# ---- list


def test_list_tells_how_each_cluster_is(clusters):
    clusters.ok("start", "-n", "2", "--daemonize", "--cluster-id=a")
    clusters.ok("start", "-n", "1", "--daemonize", "--cluster-id=b")
    supervisor = psutil.Process(clusters.pid("supervisor", "b"))
    family = [supervisor, *supervisor.children(recursive=True)]
    supervisor.kill()
    assert not psutil.wait_procs(family, PATIENCE)[1]
    starting = clusters.spawn("start", "-n", "1", "--cluster-id=c", "--delay=1000")
    starting.wait_for_line("the controller is ready")
    by_id = {found["cluster_id"]: found for found in answer(clusters, "list")}
    states = {name: (found["state"], found["n_engines"]) for name, found in by_id.items()}
    assert states == {"a": ("running", 2), "b": ("stale", 0), "c": ("starting", 0)}
    a = by_id["a"]
    assert (a["profile"], a["pid"], a["launcher"]) == ("default", clusters.pid("supervisor", "a"), "Local")
    assert a["controller_pid"] == clusters.pid("controller", "a")
    assert 0 <= a["age"] < PATIENCE and a["started"].startswith("20")
    table = clusters.ok("list", "-o", "table").splitlines()
    assert table[0].split() == ["PROFILE", "CLUSTER", "ID", "STATE", "ENGINES", "PID", "LAUNCHER", "AGE"]
    assert len(table) == 4
    starting.signal(signal.SIGINT)
    starting.wait()
    clusters.ok("stop", "--all")
    clusters.assert_nothing_left()


def test_list_counts_the_engines_that_live(clusters):
    clusters.ok("start", "-n", "3", "--daemonize")
    clusters.ok("stop", "--engines", "1")
    wait_until(lambda: answer(clusters, "list")[0]["n_engines"] == 2, "two living engines")
    clusters.ok("stop")
    clusters.assert_nothing_left()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")
def test_a_cluster_whose_profile_was_deleted_is_found_and_stopped(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    supervisor = clusters.pid("supervisor")
    clusters.profile_dir.rename(clusters.folder / "elsewhere")
    (listed,) = answer(clusters, "list")
    assert (listed["state"], listed["pid"], listed["profile"]) == ("profile-deleted", supervisor, "default")
    assert "profile deleted" in clusters.ok("list", "-o", "table")
    assert clusters.run("stop", "--cluster-id=other").returncode == ALREADY_STOPPED
    stopped = answer(clusters, "stop")
    assert stopped["clusters"][0]["outcome"] == "in-order"
    clusters.wait_until_gone()
    assert answer(clusters, "list") == []


# ---- a controller that runs by itself


def said(clusters, *args, code=0):
    done = clusters.run(*args)
    assert done.returncode == code, (args, done.stdout)
    return done.stdout


def test_all_commands_tell_the_same_of_a_controller_alone(clusters):
    controller = clusters.spawn("controller")
    controller.wait_for_line("listens on")
    kill = f"`kill {controller.pid}` ends it"
    (listed,) = answer(clusters, "list")
    assert (listed["state"], listed["controller_pid"], listed["n_engines"]) == ("controller-alone", controller.pid, 0)
    assert "controller alone" in said(clusters, "list", "-o", "table")
    assert answer(clusters, "status")["state"] == "controller-alone"
    status = said(clusters, "status")
    assert "controller alone" in status and kill in status
    findings = answer(clusters, "doctor")["findings"]
    (found,) = [finding["found"] for finding in findings if finding["check"] == "clusters"]
    assert "runs and answers" in found and kill in found
    assert kill in said(clusters, "stop", code=ALREADY_STOPPED)
    assert kill in said(clusters, "stop", "--all")
    (left,) = answer(clusters, "stop", "--all")["clusters"]
    assert (left["outcome"], left["controller_pid"]) == ("already", controller.pid)
    for what in ([], ["engines"]):
        assert kill in said(clusters, "restart", *what, code=1)
    assert kill in said(clusters, "logs", code=1)
    assert "engines 0" in said(clusters, "top", "--once")
    assert "(a controller alone)" in said(clusters, "status", "--cluster-id=other", code=NO_CLUSTER)

    clusters.ok("engines", "-n", "2", "--daemonize")
    (listed,) = answer(clusters, "list")
    assert (listed["state"], listed["controller_pid"]) == ("running", controller.pid)
    wait_until(lambda: answer(clusters, "list")[0]["n_engines"] == 2, "the controller's notes")
    assert kill in said(clusters, "status")
    stopped = said(clusters, "stop")
    assert "has stopped" in stopped and kill in stopped, "engines end, and the controller goes on"
    assert answer(clusters, "status")["state"] == "controller-alone"

    os.kill(controller.pid, signal.SIGTERM)
    assert controller.wait() == 0
    assert answer(clusters, "list") == []
    assert "no cluster" in said(clusters, "stop", code=ALREADY_STOPPED)
    clusters.assert_nothing_left()


def test_one_that_was_killed_is_not_listed(clusters):
    controller = clusters.spawn("controller", "--cluster-id=a")
    controller.wait_for_line("listens on")
    assert [row["cluster_id"] for row in answer(clusters, "list")] == ["a"]
    controller.process.kill()
    controller.wait()
    assert answer(clusters, "list") == []
    assert said(clusters, "status", "--cluster-id=a", code=NO_CLUSTER)
    clusters.ok("clean")
    clusters.assert_nothing_left()


# ---- logs


def test_logs_are_shown_by_part(clusters):
    clusters.ok("start", "-n", "2", "--daemonize")
    shown = clusters.ok("logs")
    for part in ("ipcontroller-", "ipengine-", "ipcluster-", "the cluster is up"):
        assert part in shown
    controller = clusters.ok("logs", "--controller", "-n", "100")
    assert "[ipcontroller]" in controller and "[ipengine]" not in controller and "==>" not in controller
    (log,) = answer(clusters, "logs", "--engine", "1")
    assert log["path"].endswith(f"ipengine-{clusters.pid('engines')}.log")
    assert any("Completed registration with id 1" in line for line in log["lines"])
    last = clusters.ok("logs", "--controller", "-n", "1")
    assert len(last.splitlines()) == 1
    missing = clusters.run("logs", "--engine", "7")
    assert missing.returncode == 1 and "there are logs of: 0, 1" in missing.stdout
    # They stay when it has ended.
    clusters.ok("stop")
    assert "Completed registration with id 0" in clusters.ok("logs", "--engine=0")
    clusters.ok("clean")
    assert "there is no log" in clusters.run("logs").stdout
    assert clusters.run("logs", "--engine=0", "--controller").returncode == 2
    clusters.assert_nothing_left()


def test_logs_are_followed(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    following = clusters.spawn("logs", "-f", "-n", "0")
    # Of what is written when it has begun to look, nothing is missed.
    clusters.ok("engines", "-n", "1", "--daemonize")
    following.wait_for_line("engine 1 has come")
    following.wait_for_line("Completed registration with id 1")
    assert "the cluster is up" not in following.text()
    following.signal(signal.SIGINT)
    following.wait()
    clusters.ok("stop")
    clusters.assert_nothing_left()


# ---- restart


def test_single_engines_come_back_with_their_ids(clusters):
    clusters.ok("start", "-n", "3", "--daemonize")
    with clusters.client() as client:
        before = pids(client)
        client[:]["x"] = 7
        old = dict(client._engines)
        done = answer(clusters, "restart", "0", "2")
        assert done["restarted"] == [0, 2]
        # The client hears of it in its own time.
        is_new = lambda id: client._engines.get(id, old[id]) != old[id]
        wait_until(lambda: client.ids == [0, 1, 2] and is_new(0) and is_new(2), "the engines")
        after = pids(client)
        assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, False]
        assert client[1]["x"] == 7
        assert client[0].apply_sync(lambda: "x" in globals()) is False
    missing = clusters.run("restart", "1", "9")
    assert missing.returncode == 1 and "no such engine: 9; there are: 0, 1, 2" in missing.stdout
    for wrong in (["whole", "1"], ["engine"], ["-1"]):
        assert clusters.run("restart", *wrong).returncode == 2
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_an_engine_at_work_is_started_again_too(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    with clusters.client() as client:
        running = client[0].apply_async(time.sleep, 1000)
        wait_until(lambda: client.queue_status()[0]["queue"] == 1, "the request")
        restart_engines(clusters, client, 0)
        with pytest.raises(Exception, match="Engine 0 died"):
            running.get(PATIENCE)
        assert client[0].apply_sync(lambda: 7) == 7
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_all_engines_are_started_again_with_their_processes(clusters):
    clusters.ok("start", "-n", "2", "--daemonize")
    clusters.ok("engines", "-n", "1", "--daemonize")
    before = clusters.pid("engines")
    controller = clusters.pid("controller")
    with clusters.client() as client:
        old = pids(client)
        out = clusters.ok("restart", "engines")
        assert "2 engines started again" in out and "1 engine started again" in out
        wait_until(lambda: client.ids == [3, 4, 5], "the new engines")
        assert not set(old) & set(pids(client))
    assert clusters.pid("engines") != before
    assert clusters.pid("controller") == controller
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_a_daemon_is_started_again_as_it_was(clusters):
    clusters.ok("start", "-n", "2", "--daemonize", "--cluster-id=x", "--", "--scheme=lru")
    supervisor, controller = clusters.pid("supervisor", "x"), clusters.pid("controller", "x")
    out = clusters.ok("restart", "--cluster-id=x")
    assert "stopping: to be started again" in out and "the cluster is up with 2 engines" in out
    assert clusters.pid("supervisor", "x") == supervisor
    assert clusters.pid("controller", "x") != controller
    with clusters.client("x") as client:
        assert client.ids == [0, 1]
        assert client._task_scheme == "lru"
    clusters.ok("stop", "x")
    clusters.assert_nothing_left()


def test_a_cluster_in_the_foreground_stays_there(clusters):
    running = clusters.start(1)
    clusters.ok("restart", "whole")
    assert running.text().count("the cluster is up with 1 engine") == 2
    assert running.process.poll() is None
    clusters.ok("restart", "whole")
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    assert running.text().splitlines()[-1].endswith("the cluster has stopped")
    clusters.assert_nothing_left()


def test_what_cannot_start_again_says_why(clusters):
    clusters.ok("start", "-n", "1", "--daemonize", "--LocalEngineSetLauncher.engine_args=['--log-level=20']")
    settings = clusters.profile_dir / "ipcluster.toml"
    settings.write_text('[cluster]\nengines = "nonsense"\n')
    done = clusters.run("restart")
    assert done.returncode == 2 and "nonsense" in done.stdout, done.stdout
    settings.unlink()
    clusters.assert_nothing_left()
    assert clusters.run("restart").returncode == NO_CLUSTER


def test_a_cluster_of_ipyparallel_is_not_started_again(clusters):
    clusters.python("start", "-n", "1", "--daemonize", timeout=2 * PATIENCE)
    with clusters.client() as client:
        client.wait_for_engines(1, timeout=PATIENCE, interactive=False)
    for what in ("whole", "engines"):
        done = clusters.run("restart", what)
        assert done.returncode == 1 and "what started it has to start it again" in done.stdout
    done = clusters.run("restart", "0")
    assert done.returncode == 1 and "one of ipyparallel's" in done.stdout
    clusters.ok("stop", "--engines=0")
    wait_until(lambda: answer(clusters, "status")["engines"] == [], "its end")
    clusters.ok("stop")
    clusters.wait_until_gone()


# ---- single engines


def test_single_engines_are_stopped_and_others_go_on(clusters):
    clusters.ok("start", "-n", "4", "--daemonize")
    done = answer(clusters, "stop", "--engines", "0", "2")
    assert done["engines"] == [0, 2]
    with clusters.client() as client:
        assert client.ids == [1, 3]
        assert client[:].apply_sync(lambda: 7) == [7, 7]
    missing = clusters.run("stop", "--engines=1,2")
    assert missing.returncode == 1 and "no such engine: 2; there are: 1, 3" in missing.stdout
    with clusters.client() as client:
        assert client.ids == [1, 3], "none of them was stopped"
    assert clusters.run("stop", "--engines", "x").returncode == 2
    assert clusters.run("stop", "--engines=1", "--all").returncode == 2
    clusters.ok("stop")
    assert clusters.run("stop", "--engines=1").returncode == NO_CLUSTER
    clusters.assert_nothing_left()


def test_tasks_that_wait_at_an_engine_that_is_stopped_go_elsewhere(clusters, tmp_path):
    clusters.ok("start", "-n", "2", "--daemonize", "--", "--hwm=0")
    with clusters.client() as client:
        marks = [tmp_path / f"begun{id}" for id in client.ids]
        blocked = [client[id].apply_async(sleep_marked, str(mark)) for id, mark in zip(client.ids, marks)]
        # Another queue may be faster: tasks are not to be there first.
        wait_until(lambda: all(mark.exists() for mark in marks), "both to sleep")
        tasks = [client.load_balanced_view().apply_async(os.getpid) for _ in range(10)]
        wait_until(lambda: sum(client.queue_status()[id]["tasks"] for id in (0, 1)) == 10, "the tasks")
        survivor = client[1]
        clusters.ok("stop", "--engines=0")
        client.abort(blocked[1], block=False)
        survivor.client.send_signal(signal.SIGINT, targets=1, block=True)
        pids = {task.get(PATIENCE) for task in tasks}
        assert len(pids) == 1
    clusters.ok("stop")
    clusters.assert_nothing_left()


# ---- what is said


def test_every_command_tells_programs_what_it_did(clusters):
    created = answer(clusters, "profile", "create", "lab", "--from", "iptest")
    assert created["profile"] == "lab" and os.path.exists(created["path"])
    assert answer(clusters, "profile", "path", "lab")["path"] == created["path"]
    assert "[" in answer(clusters, "profile", "show", "lab")["text"]
    shown = answer(clusters, "profile", "show", "lab", "--resolved")["settings"]
    assert shown["cluster.engines"] == {"value": "local", "origin": "default"}
    assert answer(clusters, "profile", "check", "lab")["ok"] is True
    listed = answer(clusters, "profile", "list")
    assert [found["name"] for found in listed["profiles"]] == ["lab"]
    assert {"default", "slurm"} <= {found["name"] for found in listed["templates"]}
    started = answer(clusters, "start", "-n", "1", "--daemonize")
    assert (started["state"], started["n_engines"]) == ("running", 1)
    assert started["pid"] == clusters.pid("supervisor")
    assert os.path.exists(started["connection_file"]) and os.path.exists(started["log"])
    added = answer(clusters, "engines", "-n", "2", "--daemonize")
    assert added["n_engines"] == 3 and added["pid"] != started["pid"]
    stopped = answer(clusters, "stop")
    assert [done["outcome"] for done in stopped["clusters"]] == ["in-order"]
    assert answer(clusters, "stop", code=ALREADY_STOPPED)["clusters"][0]["outcome"] == "already"
    cleaned = answer(clusters, "clean")
    assert len(cleaned["profiles"][0]["removed"]) == 5 and cleaned["profiles"][0]["running"] == []
    assert clusters.run("start", "-n", "1", "-o", "json").returncode == 2
    clusters.assert_nothing_left()


def test_how_to_end_it_is_said_as_it_is(clusters):
    out = clusters.ok("start", "-n", "0", "--daemonize", "--profile=lab", "--cluster-id=x")
    assert "`ipcluster stop --profile=lab --cluster-id=x` ends it" in out and "Ctrl-C" not in out
    clusters.ok("stop", "--profile=lab", "x")
    running = clusters.spawn("start", "-n", "0")
    running.wait_for_line("Ctrl-C or `ipcluster stop` ends it")
    running.signal(signal.SIGINT)
    running.wait()


def test_stop_of_a_missing_profile_says_which_there_are(clusters):
    clusters.ok("start", "-n", "0", "--daemonize", "--profile=lab")
    done = clusters.run("stop", "--profile=lba")
    assert done.returncode == ALREADY_STOPPED
    for part in ('no profile "lba"', 'did you mean "lab"', "there are: lab", "there are: --profile=lab"):
        assert part in done.stdout, done.stdout
    clusters.ok("stop", "--profile=lab")


def test_engines_that_register_are_counted_in_one_line_at_a_terminal(clusters):
    child, terminal = pty.fork()
    if child == 0:
        os.execve(BINARY, [BINARY, "start", "-n", "3", "--daemonize"], clusters.env)
    text = b""
    while True:
        try:
            text += os.read(terminal, 4096)
        except OSError:
            break
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, text
    # Written over, and away before the next whole line.
    assert b"\r\x1b[Kengine 0 is registered: 1 of 3" in text, text
    assert text.count(b"of 3 (") == 3
    last = text.rindex(b"\r\x1b[K")
    assert b"3 of 3" in text[last:], text
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_nothing_stays_of_an_orderly_end(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    assert (clusters.profile_dir / "log" / "engines.json").exists()
    clusters.ok("stop")
    assert not (clusters.profile_dir / "log" / "engines.json").exists()
    # Logs as ipyparallel's launcher names them: the number is no pid.
    for name in ("ipengine--1795294755-1.log", "ipengine--1795294755-2.log"):
        (clusters.profile_dir / "log" / name).write_text("x")
    clusters.ok("clean")
    assert not list((clusters.profile_dir / "log").iterdir())
    clusters.assert_nothing_left()


def test_a_name_that_cannot_be_resolved_is_told_at_once(clusters):
    running = clusters.spawn("start", "-n", "1", "--ip=*", "--location=no.such.host.invalid", "--engine-timeout=60")
    running.wait_for_line("--location=no.such.host.invalid: this machine cannot resolve that name")
    running.wait_for_line("the controller's machine is called no.such.host.invalid, which cannot be resolved here")
    running.signal(signal.SIGINT)
    running.wait()
    clusters.assert_nothing_left()


def test_an_import_says_what_still_goes_before_it(clusters):
    clusters.ok("profile", "create", "old")
    folder = clusters.folder / "profile_old"
    (folder / "ipcluster.toml").unlink()
    theirs = folder / "ipcontroller_config.py"
    theirs.write_text("c.HeartMonitor.period = 200\n")
    said = clusters.ok("profile", "import", "old")
    assert f"{theirs} still goes before the settings file" in said
    done = answer(clusters, "profile", "import", "old", "--force", "--set-aside")
    assert done["set_aside"] == [f"{theirs}.imported"] and not theirs.exists()
    origin = answer(clusters, "profile", "show", "old", "--resolved")["settings"]["heartbeat.period_ms"]["origin"]
    assert "ipcluster.toml" in origin


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_a_read_only_profile_folder_is_named(clusters):
    folder = clusters.folder / "ro"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        clusters.env["IPYTHONDIR"] = str(folder)
        clusters.ok("profile", "create", "default")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for arguments in (["start", "-n", "1"], ["start", "-n", "1", "--daemonize"], ["controller"]):
            done = clusters.run(*arguments)
            assert done.returncode == 1
            assert done.stdout.count("name another place with --profile-dir or IPYTHONDIR") == 1, done.stdout
            assert "cannot remove" not in done.stdout
        found = answer(clusters, "doctor", code=1)
        assert "profile" in [one["check"] for one in found["findings"] if one["level"] == "problem"]
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        clusters.env["IPYTHONDIR"] = str(clusters.folder)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_is_named_and_nothing_is_left_half_started(clusters):
    folder = clusters.folder / "full"
    folder.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(folder)]
    if subprocess.run(small, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        clusters.env["IPYTHONDIR"] = str(folder)
        clusters.ok("profile", "create", "default")
        with (folder / "fill").open("wb", buffering=0) as fill, pytest.raises(OSError):
            while True:
                fill.write(b"x" * 1024)
        for arguments in (["start", "-n", "1"], ["start", "-n", "1", "--daemonize"], ["controller"], ["start", "--profile=x"]):
            done = clusters.run(*arguments)
            assert done.returncode == 1 and "the disk is full" in done.stdout, done.stdout
        left = [path.name for path in folder.rglob("*") if path.is_file()]
        assert not [name for name in left if name.endswith((".json", ".lock", ".sock"))], left
        assert not (folder / "profile_x").exists()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        clusters.env["IPYTHONDIR"] = str(clusters.folder)
