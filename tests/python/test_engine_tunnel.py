"""Engines that reach their controller through a server of ssh, as `ipengine --ssh` and `ipcontroller --enginessh` say."""

import json
import os
import shutil

import psutil
import pytest
import real_servers
import ssh_server
from cluster_fixtures import wait_for_answers
from programs import BINARY, wait_until

pytestmark = ssh_server.needed

FAILED, USAGE = 1, 2


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A search path on which `ssh` knows the server."""
    folder = tmp_path_factory.mktemp("ssh")
    with ssh_server.sshd(folder) as configuration:
        ssh = folder / "bin" / "ssh"
        ssh.parent.mkdir()
        real = shutil.which("ssh", path=real_servers.PATH)
        ssh.write_text(f'#!/bin/sh\nexec {real} -F {configuration} "$@"\n')
        ssh.chmod(0o755)
        yield os.pathsep.join([str(ssh.parent), os.environ["PATH"]])


def controllers_file(place, **changes):
    """The file for engines, copied and changed; and the controller's ports."""
    content = json.loads(place.engine_file().read_text())
    numbers = [value for value in content.values() if isinstance(value, int)]
    copy = place.folder / "copied.json"
    copy.write_text(json.dumps({**content, **changes}))
    return copy, {*numbers, *content["broadcast"]}


def ways(engine):
    """The ports to which an engine has connections, and the processes of ssh that it runs."""
    process = psutil.Process(engine.pid)
    connections = process.net_connections("tcp")
    ssh = [child for child in process.children() if child.name() == "ssh"]
    return {one.raddr.port for one in connections if one.status == "ESTABLISHED"}, ssh


@pytest.mark.parametrize("says", ["file", "flag"])
def test_all_channels_go_through_the_server(place, path, says):
    place.controller()
    changes = {"ssh": "there", "location": "far.invalid"} if says == "file" else {}
    file, ports = controllers_file(place, **changes)
    flags = ["--ssh=there"] if says == "flag" else []
    engine = place.start([BINARY, "engine", "-n", 2, f"--file={file}", *flags], {"PATH": path})
    client = place.client(2)
    view = client[:]
    assert view.apply_sync(lambda: 7) == [7, 7]
    printed = view.execute("print('through', end='')")
    printed.wait_for_output()
    assert printed.stdout == ["through"] * 2
    assert client.broadcast_view().apply_sync(lambda: 8) == [8, 8]
    used, (ssh,) = ways(engine)
    assert used and not used & ports

    # What breaks is made again; engines come back if they were given up meanwhile.
    ssh.kill()
    wait_until(lambda: ways(engine)[1] not in ([], [ssh]), "another tunnel")
    engine.wait_for("is open again")
    wait_for_answers(client, 2)
    client.shutdown(block=True)
    assert engine.wait() == 0


def test_the_controller_s_own_machine_needs_no_tunnel(place):
    place.controller("--enginessh=nowhere.invalid")
    engine = place.start([BINARY, "engine"])
    assert place.client(1)[:].apply_sync(lambda: 7) == [7]
    assert engine.stop() == 0


def test_a_server_that_lets_nobody_in_is_said(place, path):
    place.controller()
    engine = place.start([BINARY, "engine", "--ssh=nobody"], {"PATH": path})
    assert engine.wait() == FAILED
    assert "no tunnel through nobody: " in engine.output


def test_what_is_no_server_is_refused(place, path):
    place.controller()
    engine = place.start([BINARY, "engine", "--ssh=login:abc"], {"PATH": path})
    assert engine.wait() == USAGE
    assert '"login:abc", is no [user@]host[:port]' in engine.output
