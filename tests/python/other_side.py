"""The other side of ssh: a real server on this machine that shares nothing with a cluster but the user."""

import json

import psutil
import pytest
import ssh_server
from cluster_fixtures import BINARY, clusters, processes_of, wait_until  # noqa: F401


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    with ssh_server.sshd(tmp_path_factory.mktemp("ssh")) as configuration:
        yield configuration


class There:
    """Clusters, and what the other side has of them."""

    def __init__(self, clusters, configuration, folder):
        self.clusters = clusters
        self.folder = folder
        self.profile = folder / "profile_there"
        self.environment = {
            "IPYTHONDIR": str(folder),
            "VIRTUAL_ENV": clusters.env["VIRTUAL_ENV"],
            "PYTHONPATH": clusters.env["PYTHONPATH"],
            "OVER_SSH": "yes",
        }
        self.common = {
            "ssh_args": ["-F", str(configuration)],
            "remote_profile_dir": str(self.profile),
            "environment": self.environment,
        }

    # ---- flags of `ipcluster start`

    def controller(self, location="there", **more):
        own = {"location": location, "controller_cmd": [BINARY, "controller"]}
        return self.flags("controller", "ssh", "SSHController", own | more)

    def engines(self, engines, **more):
        own = {"engines": engines, "engine_cmd": [BINARY, "engine"]}
        return self.flags("engines", "ssh", "SSHEngineSet", own | more)

    def proxy(self, *arguments, location="there", **more):
        own = {"location": location, "ipcluster_cmd": [BINARY], "ipcluster_args": list(arguments)}
        return self.flags("engines", "sshproxy", "SSHProxyEngineSet", own | more)

    def flags(self, part, launcher, name, traits):
        traits = self.common | traits
        return [f"--{part}={launcher}", *(f"--{name}Launcher.{trait}={value!r}" for trait, value in traits.items())]

    def start(self, *arguments):
        running = self.clusters.spawn("start", *arguments)
        running.wait_for_line("the cluster is up")
        return running

    # ---- what is there

    def programs(self):
        """What ssh has started there: controllers, and the processes of engines."""
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if process.name() == "ipcluster" and "--over-stdin" in words and str(self.folder) in " ".join(words):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def processes(self):
        """Everything that runs on the other side."""
        # They are told their environment when they run already.
        return self.programs() + processes_of(self.folder)

    def files(self):
        """Files of the other side that are there only while something runs."""
        return sorted(
            path.name for name in ("security", "pid") for path in (self.profile / name).glob("*") if path.is_file()
        )

    def tunnels(self):
        """Processes of ssh on this side that lead ports here."""
        found = []
        for process in self.clusters.processes():
            try:
                if process.name() == "ssh" and "-L" in process.cmdline():
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def connection(self, who="client"):
        return json.loads((self.clusters.profile_dir / "security" / f"ipcontroller-{who}.json").read_text())

    def assert_nothing_left(self):
        wait_until(lambda: not self.processes(), "the end of what runs there")
        assert self.files() == []
        self.clusters.assert_nothing_left()


@pytest.fixture
def there(clusters, configuration, tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    there = There(clusters, configuration, folder)
    yield there
    left = there.processes()
    for process in left:
        process.kill()
    assert not left, f"processes that were left: {left}"
