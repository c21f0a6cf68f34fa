"""Engines that another machine's `ipcluster` starts in its own way: a real ssh server on this machine, with a profile of its
own behind it."""

import os
import signal
import subprocess

import pytest
import ssh_server
from cluster_fixtures import BINARY, wait_until
from other_side import clusters, configuration, there  # noqa: F401
from test_batch_systems import System
from test_dashboard import Dashboard

pytestmark = ssh_server.needed


def test_another_ipcluster_starts_the_engines_and_ends_them(there):
    running = there.clusters.spawn("start", "-n", "2", *there.proxy())
    running.wait_for_line("the cluster is up with 2 engines")
    assert "ipcontroller-engine.json" in there.files()
    with there.clusters.client() as client:
        assert client.ids == [0, 1]
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == ["yes", "yes"]
        view = client[0]
        view.execute("import signal; got = []; signal.signal(signal.SIGUSR1, lambda *a: got.append(1))", block=True)
        running.signal(signal.SIGUSR1)
        wait_until(lambda: view.pull("got", block=True) == [1], "the signal")
    assert " 2 " in there.clusters.python("list")
    there.clusters.ok("stop")
    assert running.wait() == 0
    there.assert_nothing_left()


def test_engines_are_jobs_where_the_other_one_has_a_batch_system(there, tmp_path):
    system = System("pbs", there.clusters, tmp_path / "batch")
    for name in ("PATH", "FAKE_BATCH", "FAKE_BATCH_IS"):
        there.environment[name] = there.clusters.env[name]
    (system.folder / "hold").touch()
    told = there.clusters.ok(
        "start", "-n", "2", "--daemonize", "--engine-timeout=2", *there.proxy("--engines=pbs"), "--ip=127.0.0.1"
    )
    assert "the engines: waiting in the queue" in told and "the engines still wait in the queue" in told
    there.clusters.ok("stop")
    assert len(system.calls("qdel")) == 1
    there.assert_nothing_left()
    (system.folder / "hold").unlink()
    there.clusters.ok("start", "-n", "2", "--daemonize", *there.proxy("--engines=pbs"))
    with there.clusters.client() as client:
        assert client[:].apply_sync(os.getenv, "FAKE_JOB") == ["2", "2"]
    there.clusters.ok("stop")
    there.assert_nothing_left()


def test_the_status_page_expects_none_beside_those_that_are_there(there):
    there.clusters.ok("start", "-n", "2", "--daemonize", "--dashboard", *there.proxy())
    dashboard = Dashboard(there.clusters)
    assert len(dashboard.state()["engines"]) == 2
    wait_until(lambda: dashboard.state()["expected"] == [], "that nothing is missing")
    there.clusters.ok("stop")
    there.assert_nothing_left()


def test_nothing_is_left_there_when_this_side_vanishes(there):
    running = there.clusters.start(2, *there.proxy())
    running.signal(signal.SIGKILL)
    running.wait()
    wait_until(lambda: not there.processes(), "the end of what runs there")
    there.clusters.run("stop")
    there.assert_nothing_left()


def test_engines_of_another_ipcluster_are_added(there):
    there.clusters.ok("start", "-n", "1", "--daemonize")
    there.clusters.ok("engines", "-n", "1", "--daemonize", *there.proxy())
    with there.clusters.client() as client:
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == [None, "yes"]
    there.clusters.ok("stop")
    there.assert_nothing_left()


def test_a_profile_that_both_share_keeps_its_files(there):
    shared = there.proxy(remote_profile_dir=str(there.clusters.profile_dir))
    there.clusters.ok("start", "-n", "1", "--daemonize", *shared)
    with there.clusters.client() as client:
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == ["yes"]
    there.clusters.ok("stop")
    there.assert_nothing_left()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ({"location": "stranger"}, 1, "Permission denied"),
        ({"ipcluster_cmd": ["not-there"]}, 1, "not-there"),
        ({"location": ""}, 2, "[launcher.SSHProxyEngineSetLauncher]"),
        ({"ipcluster_cmd": []}, 2, "ipcluster_cmd: it names no command"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_left(there, more, code, words):
    done = there.clusters.run("start", "-n", "1", "--daemonize", *there.proxy(**more))
    assert done.returncode == code and words in done.stdout, done.stdout
    there.assert_nothing_left()


def test_what_the_other_one_refuses_is_told(there):
    done = there.clusters.run("start", "-n", "1", "--daemonize", *there.proxy("--engines=nothing"))
    assert done.returncode == 1 and "there are: local, ssh" in done.stdout, done.stdout
    there.assert_nothing_left()


def test_another_controller_there_is_left_alone(there):
    other = {**there.clusters.env, **there.environment}
    subprocess.run([BINARY, "start", f"--profile-dir={there.profile}", "-n", "0", "--daemonize"], env=other, check=True)
    files = there.files()
    done = there.clusters.run("start", "-n", "1", "--daemonize", *there.proxy())
    assert done.returncode == 1 and "another controller of profile" in done.stdout, done.stdout
    assert there.files() == files
    subprocess.run([BINARY, "stop", f"--profile-dir={there.profile}"], env=other, check=True)
    there.assert_nothing_left()


def test_it_is_no_launcher_for_elastic_clusters_nor_for_controllers(there):
    done = there.clusters.run("start", "--min=1", "--max=2", *there.proxy())
    assert done.returncode == 2 and "sshproxy" in done.stdout
    done = there.clusters.run("start", "--controller=sshproxy")
    assert done.returncode == 2 and "there are: local, ssh, mpi" in done.stdout
    there.clusters.assert_nothing_left()
