"""Ports for programs that are yet to be started, and ports at which nobody answers."""

import random
import socket
from contextlib import contextmanager

ADDRESS = "127.0.0.1"
# Below those that systems take for outgoing connections and for servers that leave the choice to them (Linux 32768 and up,
# macOS 49152 and up): nobody comes upon them by chance.
FIRST, END = 10_000, 32_000

_next = random.randrange(FIRST, END)


def free_port():
    return free_ports(1)[0]


def free_ports(count):
    """Neighbours, which no call gives again."""
    global _next
    for _ in range(FIRST, END):
        if _next + count > END:
            _next = FIRST
        ports = range(_next, _next + count)
        _next = ports.stop
        if all(map(_is_free, ports)):
            return ports
    raise AssertionError("no free ports")


def _is_free(port):
    try:
        socket.create_server((ADDRESS, port)).close()
        return True
    except OSError:
        return False


@contextmanager
def closed_port():
    """A port that refuses connections for as long as the block lasts, since who holds it does not listen."""
    with socket.socket() as holder:
        holder.bind((ADDRESS, 0))
        yield holder.getsockname()[1]
