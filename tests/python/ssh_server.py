"""An OpenSSH server on the loopback address, or on a pretend host: its own keys, configuration, port and folder."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
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


def missing():
    """What this machine has not got of it."""
    return [name for name in COMMANDS if not shutil.which(name, path=PATH)]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def sshd(folder, address="127.0.0.1", begin=()):
    """Runs it, by a command that begins so; gives the client's configuration file, which knows it as `there` and
    `elsewhere`."""
    program = shutil.which("sshd", path=PATH)
    port = free_port()
    for name in ("host_key", "key", "other_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[{address}]:{port} {host_key}")
    server, client = folder / "sshd_config", folder / "ssh_config"
    server.write_text(SERVER.format(address=address, port=port, folder=folder))
    client.write_text(
        CLIENT.format(
            address=address, port=port, folder=folder, user=getpass.getuser(), closed=free_port()
        )
    )
    if os.getuid() == 0:
        # Where it separates privileges.
        os.makedirs("/run/sshd", exist_ok=True)
    log = folder / "sshd.log"
    log.touch()
    process = subprocess.Popen([*begin, program, "-D", "-f", server, "-E", log])
    try:
        deadline = time.monotonic() + 60
        while "Server listening" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd does not get ready:\n{log.read_text()}")
            time.sleep(0.02)
        yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
