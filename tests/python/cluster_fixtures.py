"""Clusters of the real executable, each test's in an IPython folder of its own that must be empty of processes at the end."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import ipyparallel
import programs
import psutil
import pytest
from programs import wait_until

BINARY = str(programs.BINARY)
PATIENCE = programs.GENEROUS


def restart_engines(clusters, client, *ids, options=()):
    """Starts single engines again, and waits until the client has heard of it, which it does in its own time."""
    old = dict(client._engines)
    clusters.ok("restart", *map(str, ids), *options)
    changed = lambda id: client._engines.get(id, old[id]) != old[id]
    wait_until(lambda: set(client.ids) == set(old) and all(map(changed, ids)), "the engines")


def wait_for_answers(client, n):
    """After a connection has broken: `n` engines that were perhaps given up meanwhile, and requests with them."""

    def answers():
        try:
            return len(client.ids) == n and client[:].apply_async(abs, -7).get(timeout=5) == [7] * n
        except (ipyparallel.CompositeError, ipyparallel.RemoteError, ipyparallel.NoEnginesRegistered, TimeoutError):
            return False

    wait_until(answers, "engines to answer again")


def processes_of(ipython_dir):
    """Those that live, and have this folder in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("IPYTHONDIR") == str(ipython_dir):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


class Running:
    """A command that runs, and the lines that it has written so far."""

    def __init__(self, process, output):
        self.process = process
        self.pid = process.pid
        self.output = output

    def text(self):
        return self.output.read_text()

    def wait_for_line(self, text):
        def there():
            assert self.process.poll() is None or text in self.text(), self.text()
            return text in self.text()

        wait_until(there, f"the line {text!r}")

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(PATIENCE)


class Clusters:
    """Runs commands on the clusters of one IPython folder."""

    def __init__(self, folder):
        self.folder = folder
        self.profile_dir = folder / "profile_default"
        self.env = {
            **os.environ,
            "IPYTHONDIR": str(folder),
            # The engines run the Python of this test.
            "VIRTUAL_ENV": sys.prefix,
            # A function that a test sends names the test's module.
            "PYTHONPATH": str(Path(__file__).parent),
        }
        for name in ("IPP_PROFILE_DIR", "IPP_CLUSTER_ID", "IPP_CONNECTION_INFO"):
            self.env.pop(name, None)
        self.started = []

    def run(self, *args, program=(BINARY,), timeout=PATIENCE):
        """Runs a command to its end. Its result has all that it wrote in `stdout`."""
        return subprocess.run(
            [*program, *args],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *args, **kwargs):
        done = self.run(*args, **kwargs)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def python(self, *args, **kwargs):
        """ipyparallel's own ipcluster."""
        return self.ok(
            *args, program=(sys.executable, "-m", "ipyparallel.cluster"), **kwargs
        )

    def spawn(self, *args, **kwargs):
        output = self.folder / f"output-{len(self.started)}"
        with output.open("w") as file:
            process = subprocess.Popen(
                [BINARY, *args],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                **kwargs,
            )
        running = Running(process, output)
        self.started.append(process)
        return running

    def start(self, n=2, *args):
        """A cluster in the foreground, when it is up."""
        running = self.spawn("start", "-n", str(n), *args)
        running.wait_for_line("the cluster is up")
        return running

    # ---- what is there

    def processes(self):
        """Every process that was started for a cluster of this folder, kernels included."""
        return processes_of(self.folder)

    def wait_until_gone(self):
        wait_until(
            lambda: not self.processes(),
            f"the end of {[p.pid for p in self.processes()]}",
        )

    def run_file(self, cluster_id=""):
        name = f"ipcluster-{cluster_id}" if cluster_id else "ipcluster"
        return json.loads((self.profile_dir / "pid" / f"{name}.json").read_text())

    def pid(self, which, cluster_id=""):
        """The pid of the `supervisor`, the `controller` or the `engines`."""
        found = self.run_file(cluster_id)[which]
        return (found[0] if isinstance(found, list) else found)["pid"]

    def fork_server(self):
        """The Python process that forks the kernels."""
        (server,) = psutil.Process(self.pid("engines")).children()
        return server

    def kernels(self):
        return self.fork_server().children()

    def log(self, program, pid):
        return (self.profile_dir / "log" / f"{program}-{pid}.log").read_text()

    def files(self):
        """What clusters have left behind, but logs and what belongs to a profile."""
        return sorted(
            str(path.relative_to(self.profile_dir))
            for path in self.profile_dir.rglob("*")
            if path.is_file()
            and path.parent.name in ("security", "pid")
        )

    @contextmanager
    def client(self, cluster_id=""):
        client = ipyparallel.Client(
            profile_dir=str(self.profile_dir), cluster_id=cluster_id, timeout=PATIENCE
        )
        try:
            yield client
        finally:
            client.close()

    def assert_nothing_left(self):
        self.wait_until_gone()
        left = self.files()
        assert not left, f"files that were left behind: {left}"

    def end(self):
        """Ends what a failed test has left running."""
        left = self.processes()
        for process in left:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                pass
        for process in self.started:
            process.kill()
            process.wait()
        return left


def allow_mpi(clusters):
    """What Open MPI wants to be told in a test."""
    clusters.env.update(
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
        TMPDIR=str(clusters.folder),
    )


@pytest.fixture
def clusters(tmp_path):
    """Nothing may run at the end of the test."""
    clusters = Clusters(tmp_path)
    yield clusters
    left = [process.pid for process in clusters.end()]
    assert not left, f"processes that were left running: {left}"
