"""An OpenSSH server on the loopback address, or on a pretend host: its own keys, configuration, port and folder."""

import getpass
import os
import shutil
import subprocess
from contextlib import contextmanager

import ports
import pytest
import real_servers

COMMANDS = ("sshd", "ssh", "ssh-keygen")

SERVER = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
"""

CLIENT = """\
Host there elsewhere
    HostName {address}
    Port {port}
    User {user}
    IdentityFile {folder}/key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking yes
Host stranger
    HostName {address}
    Port {port}
    User {user}
    IdentityFile {folder}/other_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
Host nobody
    HostName 127.0.0.1
    Port {closed}
"""


MISSING = real_servers.missing(*COMMANDS)
needed = pytest.mark.skipif(bool(MISSING), reason=f"OpenSSH is not installed: no {', '.join(MISSING)}")


@contextmanager
def sshd(folder, address="127.0.0.1", begin=()):
    """Runs it, by a command that begins so; gives the client's configuration file, which knows it as `there` and
    `elsewhere`."""
    program = shutil.which("sshd", path=real_servers.PATH)
    port = ports.free_port()
    for name in ("host_key", "key", "other_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[{address}]:{port} {host_key}")
    server, client = folder / "sshd_config", folder / "ssh_config"
    server.write_text(SERVER.format(address=address, port=port, folder=folder))
    if os.getuid() == 0:
        # Where it separates privileges.
        os.makedirs("/run/sshd", exist_ok=True)
    log = folder / "sshd.log"
    log.touch()
    with ports.closed_port() as closed, real_servers.server(folder, None, "sshd.log") as running:
        client.write_text(
            CLIENT.format(address=address, port=port, folder=folder, user=getpass.getuser(), closed=closed)
        )
        running.start(*begin, program, "-D", "-f", server, "-E", log)
        running.wait_until(lambda: "Server listening" in log.read_text())
        yield client
