"""A controller that ssh starts, through a real server on this machine: one that shares nothing with the cluster but the
user."""

import json
import os
import signal
import socket
import stat

import psutil
import pytest
import ssh_server
from cluster_fixtures import BINARY, wait_for_answers, wait_until
from other_side import clusters, configuration, there  # noqa: F401

pytestmark = ssh_server.needed


def test_a_controller_that_listens_on_loopback_there_is_reached_through_a_tunnel(there):
    running = there.start("-n", "2", *there.controller())
    assert "the controller is ready (there, by process" in running.text()
    (controller,) = there.programs()
    assert controller.cmdline()[1] == "controller"
    # Both sides have files; those of this one lead to the tunnel's ports.
    assert there.files() == [".ipcontroller.lock", "ipcontroller-client.json", "ipcontroller-engine.json"]
    (tunnel,) = there.tunnels()
    file = there.connection()
    assert (file["interface"], file["location"], file["ssh"]) == ("tcp://127.0.0.1", socket.gethostname(), "")
    assert any(word.startswith(f"127.0.0.1:{file['mux']}:127.0.0.1:") for word in tunnel.cmdline())
    for who in ("client", "engine"):
        path = there.clusters.profile_dir / "security" / f"ipcontroller-{who}.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # The key has travelled through the connection and is in no argument.
    for process in psutil.process_iter(["cmdline"]):
        assert file["key"] not in " ".join(process.info["cmdline"] or [])
    with there.clusters.client() as client:
        assert client.ids == [0, 1]
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == [None, None]
        assert client.load_balanced_view().map_sync(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
    listed = there.clusters.python("list")
    assert " 2 " in listed and "True" in listed, listed
    assert json.loads(there.clusters.ok("status", "-o", "json"))["state"] == "running"
    there.clusters.ok("engines", "-n", "1", "--daemonize")
    with there.clusters.client() as client:
        assert client.ids == [0, 1, 2]
    there.clusters.ok("stop")
    assert running.wait() == 0
    there.assert_nothing_left()


def test_a_controller_that_others_can_reach_needs_no_tunnel(there):
    there.clusters.ok("start", "-n", "1", "--daemonize", "--ip=*", *there.controller("elsewhere"))
    assert not there.tunnels()
    file = there.connection()
    assert file["interface"] == "tcp://*" and file["curve_serverkey"]
    with there.clusters.client() as client:
        assert client[:].apply_sync(abs, -3) == [3]
    there.clusters.ok("stop")
    there.assert_nothing_left()


def test_what_a_shell_there_says_is_passed_over(there):
    # As a greeting of somebody's shell, which need not be UTF-8.
    greeting = ["sh", "-c", "printf 'd\\351j\\340 vu\\n'; exec \"$0\" \"$@\"", BINARY, "controller"]
    there.clusters.ok("start", "-n", "1", "--daemonize", *there.controller(controller_cmd=greeting))
    assert there.tunnels()
    there.clusters.ok("stop")
    there.assert_nothing_left()


def test_engines_of_the_controller_s_machine_go_there_and_others_through_this_one(there):
    machines = {"there": 1, "elsewhere": {"n": 1, "tunnel": True}}
    running = there.start(*there.controller(), *there.engines(machines))
    assert "cannot reach it" not in running.text()
    with there.clusters.client() as client:
        assert client.ids == [0, 1]
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == ["yes", "yes"]
    there.clusters.ok("stop")
    assert running.wait() == 0
    there.assert_nothing_left()


def test_the_program_is_copied_over_on_request(there):
    there.clusters.ok(
        "start", "-n", "1", "--daemonize", *there.controller(send_program=True, controller_cmd=["not-there"])
    )
    (controller,) = there.programs()
    program = controller.exe()
    assert program != BINARY and os.path.exists(program)
    there.clusters.ok("stop")
    wait_until(lambda: not os.path.exists(program), "the program's copy is removed")
    there.assert_nothing_left()


def test_settings_and_keys_of_the_command_line_go_along(there):
    running = there.start(
        "-n", "1", "--Session.key=secret-of-ours", "--TaskScheduler.scheme_name=lru", *there.controller(), "--", "--hwm=3"
    )
    assert there.connection()["key"] == "secret-of-ours"
    assert there.connection()["task_scheme"] == "lru"
    (controller,) = there.programs()
    assert "--hwm=3" in controller.cmdline() and "secret-of-ours" not in " ".join(controller.cmdline())
    there.clusters.ok("stop")
    assert running.wait() == 0
    there.assert_nothing_left()


def test_nothing_is_left_there_when_this_side_vanishes(there):
    running = there.start("-n", "1", *there.controller())
    running.signal(signal.SIGKILL)
    running.wait()
    wait_until(lambda: not there.programs(), "the controller's end")
    assert there.files() == []
    there.clusters.run("stop")
    there.assert_nothing_left()


def test_a_side_that_only_falls_silent_is_given_up_as_well(there):
    running = there.start("-n", "1", *there.controller(silence_timeout=1.0))
    (controller,) = there.programs()
    # It stays as long as it is told that somebody is there: several times of silence.
    assert psutil.wait_procs([controller], timeout=4)[1], "it has ended"
    # Neither it nor what it has started says a word, and nobody closes a connection.
    quiet = [running.process.pid, there.clusters.pid("controller")]
    for pid in quiet:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: not there.programs(), "the controller's end")
    for pid in quiet:
        os.kill(pid, signal.SIGCONT)
    assert running.wait() == 1
    assert "the controller has died (exit code 1)" in running.text(), running.text()
    there.assert_nothing_left()


def test_a_tunnel_that_breaks_is_made_again(there):
    running = there.start("-n", "1", *there.controller())
    (tunnel,) = there.tunnels()
    with there.clusters.client() as client:
        tunnel.kill()
        running.wait_for_line("the tunnel to there is open again")
        # The client's connections and the engine's went through it.
        wait_for_answers(client, 1)
    there.clusters.ok("stop")
    assert running.wait() == 0
    there.assert_nothing_left()


def test_a_tunnel_shares_no_connection_with_others(there, configuration, tmp_path):
    # Ports of a connection that is shared belong to whichever ssh was the first, and stay when the tunnel's ends.
    shared = tmp_path / "config"
    path = tmp_path.parent / "s"  # No longer than a socket's may be.
    shared.write_text(f"{configuration.read_text()}\nHost *\nControlMaster auto\nControlPath {path}\n")
    there.clusters.ok("start", "-n", "0", "--daemonize", *there.controller(ssh_args=["-F", str(shared)]))
    (tunnel,) = there.tunnels()
    listens = {one.laddr.port for one in tunnel.net_connections("tcp") if one.status == "LISTEN"}
    assert there.connection()["mux"] in listens
    there.clusters.ok("stop")
    there.assert_nothing_left()


def test_the_controller_s_death_is_the_cluster_s_end(there):
    running = there.start("-n", "1", *there.controller())
    (controller,) = there.programs()
    controller.kill()
    assert running.wait() == 1
    assert "the controller has died" in running.text()
    # What it left there, another one takes away.
    for name in there.files():
        (there.profile / "security" / name).unlink()
    there.assert_nothing_left()


def test_a_cluster_starts_again_in_the_same_place(there):
    there.clusters.ok("start", "-n", "1", "--daemonize", *there.controller())
    (before,) = there.programs()
    there.clusters.ok("restart")
    (after,) = there.programs()
    assert before.pid != after.pid
    with there.clusters.client() as client:
        assert client[:].apply_sync(abs, -1) == [1]
    refused = there.clusters.run("start", *there.controller())
    assert refused.returncode == 10, refused.stdout
    there.clusters.ok("stop")
    there.assert_nothing_left()


def test_an_elastic_cluster_follows_the_queue_of_a_controller_elsewhere(there, tmp_path):
    from test_elastic import hold

    there.clusters.ok("start", "--min=1", "--max=2", "--idle-timeout=1", "--daemonize", *there.controller())
    gate = tmp_path / "gate"
    with there.clusters.client() as client:
        tasks = [client.load_balanced_view().apply_async(hold, str(gate)) for _ in range(4)]
        wait_until(lambda: len(client.ids) == 2, "another engine")
        gate.touch()
        for task in tasks:
            task.get(60)
        wait_until(lambda: len(client.ids) == 1, "the end of the idle one")
    there.clusters.ok("stop")
    there.assert_nothing_left()


@pytest.mark.parametrize(
    ("host", "more", "code", "words"),
    [
        ("stranger", {}, 1, "Permission denied"),
        ("nobody", {}, 1, "Connection refused"),
        ("there", {"controller_cmd": ["not-there"]}, 1, "not-there"),
        ("", {}, 2, "[launcher.SSHControllerLauncher]"),
        ("-oProxyCommand=x", {}, 2, "is no [user@]host[:port]"),
        ("there", {"controller_args": ["--hwm=x"]}, 2, "--hwm"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_left(there, host, more, code, words):
    done = there.clusters.run("start", "-n", "1", "--daemonize", *there.controller(host, **more))
    assert done.returncode == code and words in done.stdout, done.stdout
    there.assert_nothing_left()


def test_a_second_controller_of_the_same_profile_there_is_refused(there):
    there.clusters.ok("start", "-n", "0", "--daemonize", *there.controller())
    other = there.clusters.folder / "profile_other"
    done = there.clusters.run("start", f"--profile-dir={other}", "-n", "0", "--daemonize", *there.controller())
    assert done.returncode == 10 and "is running already" in done.stdout, done.stdout
    assert there.files(), "those of the first one are still there"
    there.clusters.ok("stop")
    there.assert_nothing_left()
