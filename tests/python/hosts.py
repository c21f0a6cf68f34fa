"""Pretend hosts on this machine: network namespaces with addresses and names of their own, and a switch between them.

The switch can be told to swallow what one of them sends and is sent: then nobody hears anything of anybody, no connection
is closed, and no interface is down. Needs root and iproute2.
"""

import os
import shutil
import subprocess
from contextlib import contextmanager, suppress

NETWORK = "10.77.0"


def missing():
    """Why this machine cannot have them, if it cannot."""
    if os.getuid() != 0:
        return "it takes root"
    found = [name for name in ("ip", "bridge", "unshare") if not shutil.which(name)]
    if found:
        return f"no {', '.join(found)}"
    allowed = subprocess.run(["unshare", "--net", "--uts", "true"], stderr=subprocess.DEVNULL).returncode == 0
    return None if allowed else "namespaces cannot be made here"


def command(*words):
    subprocess.run([str(word) for word in words], check=True)


class Host:
    def __init__(self, switch, number):
        self.switch = switch
        self.name = f"host{number}"
        self.namespace = f"{switch}-{number}"
        self.port = f"port{number}"
        self.address = f"{NETWORK}.{number}"
        command("ip", "netns", "add", self.namespace)
        within = ("ip", "-n", self.namespace)
        command(
            "ip", "-n", switch, "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace
        )
        command("ip", "-n", switch, "link", "set", self.port, "master", "switch", "up")
        command(*within, "link", "set", "lo", "up")
        command(*within, "address", "add", f"{self.address}/24", "dev", "eth0")
        command(*within, "link", "set", "eth0", "up")

    @property
    def here(self):
        """What a command that is to run on this host begins with."""
        named = 'hostname "$0" && exec "$@"'
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", named, self.name]

    def disconnect(self):
        self._set_port("0")

    def connect(self):
        self._set_port("3")

    def _set_port(self, state):
        command("bridge", "-n", self.switch, "link", "set", "dev", self.port, "state", state)


@contextmanager
def hosts(count):
    """So many hosts, which can reach each other and nobody else."""
    switch = f"ipc{os.getpid()}"
    made = [switch]
    try:
        command("ip", "netns", "add", switch)
        command("ip", "-n", switch, "link", "add", "switch", "type", "bridge", "forward_delay", "0")
        command("ip", "-n", switch, "link", "set", "switch", "up")
        found = []
        for number in range(1, count + 1):
            made.append(f"{switch}-{number}")
            found.append(Host(switch, number))
        yield found
    finally:
        for namespace in reversed(made):
            with suppress(subprocess.CalledProcessError):
                command("ip", "netns", "delete", namespace)
