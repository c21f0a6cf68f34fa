"""An OpenSSH server on the loopback address: its own keys, configuration, port and folder."""

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
ListenAddress 127.0.0.1
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
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking yes
Host stranger
    HostName 127.0.0.1
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
def sshd(folder):
    """Runs it; gives the client's configuration file, which knows it as `there` and `elsewhere`."""
    program = shutil.which("sshd", path=PATH)
    port = free_port()
    for name in ("host_key", "key", "other_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    server, client = folder / "sshd_config", folder / "ssh_config"
    server.write_text(SERVER.format(port=port, folder=folder))
    client.write_text(
        CLIENT.format(port=port, folder=folder, user=getpass.getuser(), closed=free_port())
    )
    if os.getuid() == 0:
        # Where it separates privileges.
        os.makedirs("/run/sshd", exist_ok=True)
    process = subprocess.Popen([program, "-D", "-f", server, "-E", folder / "sshd.log"])
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd does not get ready:\n{(folder / 'sshd.log').read_text()}")
            time.sleep(0.02)
        yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
