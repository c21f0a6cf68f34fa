"""The controller on one host, engines on another: network namespaces with addresses of their own."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import hosts
import psutil
import pytest
import ssh_server
from cluster_fixtures import BINARY, PATIENCE, clusters, wait_until  # noqa: F401

MISSING = hosts.missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no hosts to run on: {MISSING}")

# Of 0.2 s, for each client.
TASKS = 50
CLIENT = Path(__file__).parent / "on_a_host.py"


class World:
    """A cluster's controller on the first host; what the second one has is in a folder of its own."""

    def __init__(self, clusters, first, second, folder):
        self.clusters = clusters
        self.first = first
        self.second = second
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.touch()
        self.started = []

    def run(self, *words):
        """Runs ours on the first host."""
        return self.clusters.ok(*words, program=(*self.first.here, BINARY))

    def start_controller(self, listens_on):
        location = f"--location={self.first.address}"
        self.run("start", "-n", "0", f"--ip={listens_on}", location, "--daemonize")

    def start_over_ssh(self, configuration, *arguments, **settings):
        """A cluster whose engines are on the second host, and have everything from ssh."""
        values = {
            "engines": {"there": 2},
            "ssh_args": ["-F", str(configuration)],
            "engine_cmd": [BINARY, "engine"],
            "remote_profile_dir": str(self.folder / "profile_there"),
            "environment": {"IPYTHONDIR": str(self.folder), "VIRTUAL_ENV": sys.prefix},
            **settings,
        }
        traits = [f"--SSHEngineSetLauncher.{name}={value!r}" for name, value in values.items()]
        self.run("start", "--engines=ssh", "--daemonize", *traits, *arguments)

    def controller_over_ssh(self, configuration, **settings):
        """What starts the controller on the second host."""
        values = {
            "location": "there",
            "ssh_args": ["-F", str(configuration)],
            "controller_cmd": [BINARY, "controller"],
            "remote_profile_dir": str(self.folder / "profile_there"),
            "environment": {"IPYTHONDIR": str(self.folder), "VIRTUAL_ENV": sys.prefix},
            **settings,
        }
        traits = [f"--SSHControllerLauncher.{name}={value!r}" for name, value in values.items()]
        return ["--controller=ssh", *traits]

    def carry_over(self, name):
        """A connection file, as somebody would copy it to the second host."""
        target = self.folder / name
        shutil.copy(self.clusters.profile_dir / "security" / name, target)
        return target

    def spawn(self, host, *command):
        process = subprocess.Popen(
            [*host.here, *map(str, command)],
            env={**self.clusters.env, "IPYTHONDIR": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.folder / f"stderr-{len(self.started)}").open("w"),
            text=True,
        )
        self.started.append(process)
        return process

    def start_engines(self, count):
        file = self.carry_over("ipcontroller-engine.json")
        return self.spawn(self.second, BINARY, "engine", "-n", count, f"--file={file}")

    def client(self, host, file, tasks):
        client = self.spawn(host, sys.executable, CLIENT, 2, file, self.journal, tasks)
        assert client.stdout.readline() == "submitted\n"
        return client

    def answer(self, client):
        line = client.stdout.readline()
        assert client.wait(PATIENCE) == 0
        return json.loads(line)

    def lines(self):
        return self.journal.read_text().splitlines()


@pytest.fixture
def two_hosts():
    with hosts.hosts(2) as found:
        yield found


@pytest.fixture
def world(clusters, two_hosts, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    world = World(clusters, *two_hosts, folder)
    yield world
    for process in world.started:
        process.kill()
        process.wait()
    # What the second host has: killed with the process that started it.
    wait_until(lambda: not left_on(world.second), "the end of what ran on the second host")


def left_on(host):
    """What runs there, but for ssh's server: whose connection is lost without a word, it keeps for a quarter of an hour."""
    pids = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True).stdout
    found = []
    for pid in map(int, pids.split()):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.name() != "sshd" and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def configuration(two_hosts, tmp_path):
    if ssh_server.MISSING:
        pytest.skip(f"OpenSSH is not installed: no {', '.join(ssh_server.MISSING)}")
    folder = tmp_path / "sshd"
    folder.mkdir()
    _, second = two_hosts
    with ssh_server.sshd(folder, second.address, second.here) as configuration:
        yield configuration


def test_engines_and_clients_of_another_host_use_the_controller(world):
    world.start_controller("*")
    engines = world.start_engines(2)
    here = world.clusters.profile_dir / "security" / "ipcontroller-client.json"
    clients = [world.client(world.first, here, 4), world.client(world.second, world.carry_over(here.name), 4)]
    for client in clients:
        answer = world.answer(client)
        assert answer["before"] == answer["after"] == [0, 1]
        assert answer["hosts"] == ["host2"] and answer["kernels"] == 2
    assert len(world.lines()) == 12
    world.run("stop")
    # They would wait for another controller.
    engines.terminate()
    assert engines.wait(PATIENCE) == 0
    assert not left_on(world.first) and not left_on(world.second)


def test_a_link_that_is_down_for_half_a_minute_loses_nothing(world):
    world.start_controller(world.first.address)
    world.start_engines(2)
    here = world.clusters.profile_dir / "security" / "ipcontroller-client.json"
    near = world.client(world.first, here, TASKS)
    far = world.client(world.second, world.carry_over(here.name), TASKS)
    wait_until(lambda: len(world.lines()) >= 10, "the first tasks")
    world.second.disconnect()
    # Not waiting for anything: this is what it has to outlive.
    time.sleep(30)
    world.second.connect()
    for client in (near, far):
        answer = world.answer(client)
        assert answer["before"] == answer["after"] == [0, 1]
        assert answer["names"] == [f"balanced {number}" for number in range(TASKS)] + ["direct 0", "direct 1"]
    # Each ran once, and only once.
    assert len(world.lines()) == 2 * (TASKS + 2)
    world.run("stop")


def test_a_tunnel_takes_the_place_of_open_ports_and_of_a_shared_file_system(world, configuration):
    # The controller listens on its own host's loopback address alone.
    world.start_over_ssh(configuration, tunnel=True, send_program=True, engine_cmd=["not-there"])
    here = world.clusters.profile_dir / "security" / "ipcontroller-client.json"
    answer = world.answer(world.client(world.first, here, 4))
    assert answer["hosts"] == ["host2"] and answer["after"] == [0, 1]
    world.run("stop")
    wait_until(lambda: not left_on(world.second), "the end of everything on the second host")
    world.clusters.assert_nothing_left()


def test_a_tunnel_outlives_half_a_minute_without_a_link(world, configuration):
    world.start_over_ssh(configuration, tunnel=True)
    here = world.clusters.profile_dir / "security" / "ipcontroller-client.json"
    client = world.client(world.first, here, TASKS)
    wait_until(lambda: len(world.lines()) >= 10, "the first tasks")
    world.second.disconnect()
    time.sleep(30)
    world.second.connect()
    answer = world.answer(client)
    assert answer["before"] == answer["after"] == [0, 1]
    assert len(world.lines()) == TASKS + 2
    world.run("stop")


def test_engines_end_when_their_cluster_s_host_is_not_heard_of_any_more(world, configuration):
    # 5 heartbeats of 0.2 s, and half a second for each beside.
    world.start_over_ssh(
        configuration,
        "--HeartMonitor.period=200",
        "--HeartMonitor.max_heartmonitor_misses=5",
        send_program=True,
        tunnel=True,
        engine_args=["--IPEngine.max_heartbeat_misses=5"],
    )
    assert left_on(world.second)
    world.second.disconnect()
    # Nobody closes a connection: they find it out themselves.
    wait_until(lambda: not left_on(world.second), "the end of everything on the second host")
    world.run("stop")
    world.clusters.assert_nothing_left()


def test_a_controller_of_another_host_is_used_through_a_tunnel(world, configuration):
    # It listens on its own host's loopback address alone, under the same ports as the tunnel here.
    controller = world.controller_over_ssh(configuration, send_program=True, controller_cmd=["not-there"])
    world.run("start", "-n", "2", "--daemonize", *controller)
    here = world.clusters.profile_dir / "security" / "ipcontroller-client.json"
    there = world.folder / "profile_there" / "security" / here.name
    file, original = json.loads(here.read_text()), json.loads(there.read_text())
    assert file["location"] == "host1" and original["location"] == world.second.address
    assert {**file, "location": ""} == {**original, "location": ""}
    answer = world.answer(world.client(world.first, here, 4))
    assert answer["hosts"] == ["host1"] and answer["after"] == [0, 1]
    # Whoever is on the controller's host uses its own files.
    assert world.answer(world.client(world.second, there, 4))["hosts"] == ["host1"]
    world.run("stop")
    wait_until(lambda: not left_on(world.second), "the end of everything on the second host")
    assert not there.exists()
    world.clusters.assert_nothing_left()


def test_a_controller_of_another_host_is_reached_at_the_address_that_ssh_has_used(world, configuration):
    engines = ["--SSHEngineSetLauncher.engines={'there': 1}", f"--SSHEngineSetLauncher.engine_cmd={[BINARY, 'engine']!r}"]
    for name in ("ssh_args", "remote_profile_dir", "environment"):
        (trait,) = [word for word in world.controller_over_ssh(configuration) if f".{name}=" in word]
        engines.append(trait.replace("SSHControllerLauncher", "SSHEngineSetLauncher"))
    world.run("start", "--ip=*", "--daemonize", *world.controller_over_ssh(configuration), "--engines=ssh", *engines)
    world.run("engines", "-n", "1", "--daemonize", "--engines=local")
    here = world.clusters.profile_dir / "security" / "ipcontroller-client.json"
    file = json.loads(here.read_text())
    assert (file["interface"], file["location"], file["ssh"]) == ("tcp://*", world.second.address, "")
    answer = world.answer(world.client(world.first, here, 8))
    assert answer["hosts"] == ["host1", "host2"] and answer["after"] == [0, 1]
    world.run("stop")
    wait_until(lambda: not left_on(world.second), "the end of everything on the second host")
    world.clusters.assert_nothing_left()


def test_a_controller_ends_when_the_host_that_has_started_it_is_not_heard_of_any_more(world, configuration):
    # Also ssh here gives it up then: it asks twice.
    options = ["-F", str(configuration), "-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=2"]
    controller = world.controller_over_ssh(configuration, silence_timeout=3.0, ssh_args=options)
    world.run("start", "-n", "1", "--daemonize", *controller)
    assert left_on(world.second)
    world.second.disconnect()
    # Nobody closes a connection: it finds it out itself.
    wait_until(lambda: not left_on(world.second), "the end of everything on the second host")
    wait_until(lambda: not left_on(world.first), "the end of everything on the first host")
    assert not list((world.folder / "profile_there" / "security").glob("*.json"))
    world.clusters.assert_nothing_left()
