"""Engines that another machine's `ipcluster` starts in its own way: a real ssh server on this machine, with a profile of its
own behind it."""

import os
import signal
import subprocess

import psutil
import pytest
import ssh_server
from cluster_fixtures import BINARY, clusters, wait_until  # noqa: F401
from test_batch_systems import System

MISSING = ssh_server.missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"OpenSSH is not installed: no {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    with ssh_server.sshd(tmp_path_factory.mktemp("ssh")) as configuration:
        yield configuration


class Proxy:
    def __init__(self, clusters, configuration, folder):
        self.clusters = clusters
        self.folder = folder
        self.configuration = configuration
        self.environment = {
            "IPYTHONDIR": str(folder),
            "VIRTUAL_ENV": clusters.env["VIRTUAL_ENV"],
            "PYTHONPATH": clusters.env["PYTHONPATH"],
            "OVER_SSH": "yes",
        }

    @property
    def profile(self):
        return self.folder / "profile_there"

    def settings(self, *arguments, location="there", **more):
        values = {
            "location": location,
            "ssh_args": ["-F", str(self.configuration)],
            "ipcluster_cmd": [BINARY],
            "ipcluster_args": list(arguments),
            "remote_profile_dir": str(self.profile),
            "environment": self.environment,
            **more,
        }
        traits = [f"--SSHProxyEngineSetLauncher.{name}={value!r}" for name, value in values.items()]
        return ["--engines=sshproxy", *traits]

    def processes(self):
        """Everything that runs on the other side."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("IPYTHONDIR") == str(self.folder):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def files(self):
        return sorted(
            path.name for name in ("security", "pid") for path in (self.profile / name).glob("*") if path.is_file()
        )

    def assert_nothing_left(self):
        wait_until(lambda: not self.processes(), "the end of what runs there")
        assert self.files() == []
        self.clusters.assert_nothing_left()


@pytest.fixture
def proxy(clusters, configuration, tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    proxy = Proxy(clusters, configuration, folder)
    yield proxy
    left = proxy.processes()
    for process in left:
        process.kill()
    assert not left, f"processes that were left: {left}"


def test_another_ipcluster_starts_the_engines_and_ends_them(proxy):
    running = proxy.clusters.spawn("start", "-n", "2", *proxy.settings())
    running.wait_for_line("the cluster is up with 2 engines")
    assert "ipcontroller-engine.json" in proxy.files()
    with proxy.clusters.client() as client:
        assert client.ids == [0, 1]
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == ["yes", "yes"]
        view = client[0]
        view.execute("import signal; got = []; signal.signal(signal.SIGUSR1, lambda *a: got.append(1))", block=True)
        running.signal(signal.SIGUSR1)
        wait_until(lambda: view.pull("got", block=True) == [1], "the signal")
    assert " 2 " in proxy.clusters.python("list")
    proxy.clusters.ok("stop")
    assert running.wait() == 0
    proxy.assert_nothing_left()


def test_engines_are_jobs_where_the_other_one_has_a_batch_system(proxy, tmp_path):
    system = System("pbs", proxy.clusters, tmp_path / "batch")
    for name in ("PATH", "FAKE_BATCH", "FAKE_BATCH_IS"):
        proxy.environment[name] = proxy.clusters.env[name]
    (system.folder / "hold").touch()
    told = proxy.clusters.ok(
        "start", "-n", "2", "--daemonize", "--engine-timeout=2", *proxy.settings("--engines=pbs"), "--ip=127.0.0.1"
    )
    assert "the engines: waiting in the queue" in told and "the engines still wait in the queue" in told
    proxy.clusters.ok("stop")
    assert len(system.calls("qdel")) == 1
    proxy.assert_nothing_left()
    (system.folder / "hold").unlink()
    proxy.clusters.ok("start", "-n", "2", "--daemonize", *proxy.settings("--engines=pbs"))
    with proxy.clusters.client() as client:
        assert client[:].apply_sync(os.getenv, "FAKE_JOB") == ["2", "2"]
    proxy.clusters.ok("stop")
    proxy.assert_nothing_left()


def test_nothing_is_left_there_when_this_side_vanishes(proxy):
    running = proxy.clusters.start(2, *proxy.settings())
    running.signal(signal.SIGKILL)
    running.wait()
    wait_until(lambda: not proxy.processes(), "the end of what runs there")
    proxy.clusters.run("stop")
    proxy.assert_nothing_left()


def test_engines_of_another_ipcluster_are_added(proxy):
    proxy.clusters.ok("start", "-n", "1", "--daemonize")
    proxy.clusters.ok("engines", "-n", "1", "--daemonize", *proxy.settings())
    with proxy.clusters.client() as client:
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == [None, "yes"]
    proxy.clusters.ok("stop")
    proxy.assert_nothing_left()


def test_a_profile_that_both_share_keeps_its_files(proxy):
    shared = proxy.settings(remote_profile_dir=str(proxy.clusters.profile_dir))
    proxy.clusters.ok("start", "-n", "1", "--daemonize", *shared)
    with proxy.clusters.client() as client:
        assert client[:].apply_sync(os.getenv, "OVER_SSH") == ["yes"]
    proxy.clusters.ok("stop")
    proxy.assert_nothing_left()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ({"location": "stranger"}, 1, "Permission denied"),
        ({"ipcluster_cmd": ["not-there"]}, 1, "not-there"),
        ({"location": ""}, 2, "[launcher.SSHProxyEngineSetLauncher]"),
        ({"ipcluster_cmd": []}, 2, "ipcluster_cmd: it names no command"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_left(proxy, more, code, words):
    done = proxy.clusters.run("start", "-n", "1", "--daemonize", *proxy.settings(**more))
    assert done.returncode == code and words in done.stdout, done.stdout
    proxy.assert_nothing_left()


def test_what_the_other_one_refuses_is_told(proxy):
    done = proxy.clusters.run("start", "-n", "1", "--daemonize", *proxy.settings("--engines=nothing"))
    assert done.returncode == 1 and "there are: local, ssh" in done.stdout, done.stdout
    proxy.assert_nothing_left()


def test_another_controller_there_is_left_alone(proxy):
    other = {**proxy.clusters.env, **proxy.environment}
    subprocess.run([BINARY, "start", f"--profile-dir={proxy.profile}", "-n", "0", "--daemonize"], env=other, check=True)
    files = proxy.files()
    done = proxy.clusters.run("start", "-n", "1", "--daemonize", *proxy.settings())
    assert done.returncode == 1 and "another controller of profile" in done.stdout, done.stdout
    assert proxy.files() == files
    subprocess.run([BINARY, "stop", f"--profile-dir={proxy.profile}"], env=other, check=True)
    proxy.assert_nothing_left()


def test_it_is_no_launcher_for_elastic_clusters_nor_for_controllers(proxy):
    done = proxy.clusters.run("start", "--min=1", "--max=2", *proxy.settings())
    assert done.returncode == 2 and "sshproxy" in done.stdout
    done = proxy.clusters.run("start", "--controller=sshproxy")
    assert done.returncode == 2 and "there are: local, ssh, mpi" in done.stdout
    proxy.clusters.assert_nothing_left()
