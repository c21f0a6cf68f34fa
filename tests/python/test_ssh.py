"""Engines over ssh, through a real server on this machine: one that shares nothing with the cluster but the user."""

import json
import os
import re
import signal

import psutil
import pytest
import ssh_server
from cluster_fixtures import BINARY, restart_engines, wait_until
from other_side import clusters, configuration, there  # noqa: F401

pytestmark = ssh_server.needed


def test_engines_of_several_machines_make_a_cluster(there):
    running = there.start(*there.engines({"there": 2, "elsewhere": {"n": 1, "engine_args": ["--spawn"]}}))
    assert "starting 2 engines (there, by process" in running.text()
    with there.clusters.client() as client:
        assert client.ids == [0, 1, 2]
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == ["yes"] * 3
    assert len(there.programs()) == 2
    # The key has travelled through the connection and is in no argument.
    file = there.clusters.profile_dir / "security" / "ipcontroller-engine.json"
    key = json.loads(file.read_text())["key"]
    for process in psutil.process_iter(["cmdline"]):
        assert key not in " ".join(process.info["cmdline"] or [])
    assert " 3 " in there.clusters.python("list")
    there.clusters.ok("stop")
    assert running.wait() == 0
    assert not there.programs()
    there.clusters.assert_nothing_left()


def test_a_tunnel_leads_to_a_controller_that_listens_on_loopback(there):
    running = there.start(*there.engines({"there": 1}, tunnel=True))
    assert "cannot reach it" not in running.text()
    with there.clusters.client() as client:
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == ["yes"]
    (engine,) = there.programs()
    remotes = {one.raddr for one in engine.net_connections("tcp") if one.raddr and one.status == "ESTABLISHED"}
    assert not remotes, "the engine has a connection beside the tunnel"
    there.clusters.ok("stop")
    assert running.wait() == 0
    assert not [name for name in os.listdir("/tmp") if re.fullmatch(r"ipcluster-[0-9a-f]{32}-\d+", name)]
    there.clusters.assert_nothing_left()


def test_the_program_is_copied_over_on_request(there):
    running = there.start(*there.engines({"there": 1}, send_program=True, engine_cmd=["not-there"]))
    with there.clusters.client() as client:
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == ["yes"]
    (engine,) = there.programs()
    program = engine.exe()
    assert program != BINARY and os.path.exists(program)
    there.clusters.ok("stop")
    assert running.wait() == 0
    wait_until(lambda: not os.path.exists(program), "the program's copy is removed")
    there.clusters.assert_nothing_left()


def test_nothing_is_left_there_when_this_side_vanishes(there):
    running = there.start(*there.engines({"there": 2}))
    (engine,) = there.programs()
    kernels = engine.children(recursive=True)
    running.signal(signal.SIGKILL)
    running.wait()
    wait_until(lambda: not there.programs(), "the engines' end")
    wait_until(lambda: not any(kernel.is_running() for kernel in kernels), "the kernels' end")
    there.clusters.run("stop")
    there.clusters.assert_nothing_left()


def test_a_connection_that_breaks_is_made_again(there):
    running = there.start(*there.engines({"there": 1}))
    psutil.Process(there.clusters.pid("engines")).kill()
    running.wait_for_line("starting them again")
    running.wait_for_line("engine 1 has come")
    assert len(there.programs()) == 1
    there.clusters.ok("stop")
    assert running.wait() == 0
    there.clusters.assert_nothing_left()


def test_signals_reach_the_kernels_there(there):
    running = there.start(*there.engines({"there": 1}))
    with there.clusters.client() as client:
        view = client[0]
        view.execute("import signal; got = []; signal.signal(signal.SIGUSR1, lambda *a: got.append(1))", block=True)
        running.signal(signal.SIGUSR1)
        wait_until(lambda: view.pull("got", block=True) == [1], "the signal")
    there.clusters.ok("stop")
    assert running.wait() == 0


@pytest.mark.parametrize(
    ("host", "words"),
    [("stranger", "Permission denied"), ("nobody", "Connection refused")],
)
def test_a_machine_that_does_not_let_us_in_is_told_in_ssh_s_words(there, host, words):
    done = there.clusters.run("start", "--daemonize", *there.engines({"there": 1, host: 1}))
    assert done.returncode == 1 and words in done.stdout, done.stdout
    wait_until(lambda: not there.programs(), "the others' end")
    there.clusters.assert_nothing_left()


def test_a_missing_program_and_missing_machines_are_named(there):
    done = there.clusters.run(
        "start", "--daemonize", *there.engines({"there": 1}, engine_cmd=["not-there"])
    )
    assert done.returncode == 1 and "not-there" in done.stdout, done.stdout
    done = there.clusters.run("start", "--daemonize", "--engines=ssh")
    assert done.returncode == 2 and "profile create NAME --from ssh" in done.stdout
    there.clusters.assert_nothing_left()


def test_an_elastic_cluster_takes_further_machines_and_leaves_them(there):
    from test_elastic import grows_and_shrinks

    machines = {"there": 1, "elsewhere": {"n": 2}}
    limits = ("--min=1", "--max=3", "--idle-timeout=1")
    running = there.start(*limits, *there.engines(machines))
    assert len(there.programs()) == 1
    with there.clusters.client() as client:
        # Two of the three are one process of the second machine.
        grows_and_shrinks(client, there.folder, 3)
    there.clusters.ok("stop")
    assert running.wait() == 0
    there.clusters.assert_nothing_left()


def test_engines_of_other_machines_are_added_and_started_again(there):
    there.clusters.ok("start", "-n", "1", "--daemonize")
    there.clusters.ok("engines", "--daemonize", *there.engines({"there": 2}))
    with there.clusters.client() as client:
        assert client.ids == [0, 1, 2]
        before = client[:].apply_sync(os.getpid)
        restart_engines(there.clusters, client, 1)
        assert [a == b for a, b in zip(before, client[:].apply_sync(os.getpid), strict=True)] == [True, False, True]
        there.clusters.ok("restart", "engines")
        wait_until(lambda: client.ids == [3, 4, 5], "all engines")
        assert sorted(client[:].apply_sync(os.getenv, "OVER_SSH"), key=str) == [None, "yes", "yes"]
    there.clusters.ok("stop")
    there.clusters.assert_nothing_left()


def test_logs_of_engines_elsewhere_are_rotated(there):
    clusters = there.clusters
    clusters.profile_dir.mkdir()
    (clusters.profile_dir / "ipcluster.toml").write_text("[log]\nmax_size = 400\nkeep = 2\n")
    there.start(*there.engines({"there": 2}, engine_args=["--log-level=debug"]))
    with clusters.client() as client:
        for _ in range(3):
            client[:].apply_sync(os.getpid)
    clusters.ok("stop")
    clusters.assert_nothing_left()
    logs = {path.name: path.read_text() for path in (clusters.profile_dir / "log").glob("ipengine-*")}
    endings = {name.partition(".log")[2] for name in logs}
    assert endings == {"", ".1", ".2"}, sorted(logs)
    assert all(len(text) <= 400 or text.count("\n") == 1 for text in logs.values())
    assert "ipengine" in "".join(logs.values())
