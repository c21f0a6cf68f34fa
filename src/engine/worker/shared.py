"""Large payloads: in memory that processes have in common, rather than copied from one to the other.

What comes, a kernel maps for itself: nothing is copied but the pages that it writes to, and those are its own from then
on. What goes is written to such memory once, and sealed.
"""

import errno
import fcntl
import mmap
import os
import weakref
from contextlib import suppress

# As they are now: user code may put anything in their places.
from fcntl import fcntl as control
from mmap import mmap as make_room
from os import close, open as open_file, pwrite
from resource import RLIM_INFINITY, RLIMIT_FSIZE, RLIMIT_NOFILE, getrlimit, setrlimit

_create = getattr(os, "memfd_create", None)

_mapped_rooms = weakref.WeakSet()
_MAP_FIXED = 0x10
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE
_map_at = None
"""mmap(2), which `mmap` does not offer for a given place, as a function that returns an errno; None until it is needed."""


def can_map(path):
    """Whether this process can get at memory of the engine's, of which `path` is an example; None where it has none."""
    global _map_at
    if path is None:
        return False
    try:
        # Where processes have other ids, it may lead to something else: to a pipe, for example, that nobody must read.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            there = os.pread(fd, 7, 0) == b"sample"
        finally:
            os.close(fd)
        _map_at = _map_at or _system_map()
    except (ImportError, OSError):
        return False
    return there


def with_shared(places, frames):
    """The frames of a message, those that are in the engine's memory mapped: places are [frame, path, length]."""
    frames = list(frames)
    for number, path, length in places:
        frames[number] = memoryview(_mapped(path, length))
    return frames


def mapped():
    """All that is mapped now. Who keeps it decides when what a request gives up goes back to the system: that takes time."""
    return list(_mapped_rooms) if _mapped_rooms else ()


def _mapped(path, length):
    fd = _open(path)
    try:
        room = _private_copy(fd, length)
    finally:
        close(fd)
    _mapped_rooms.add(room)
    return room


def _open(path):
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return open_file(path, flags)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    # User code has opened all that it may, or may open no more: this one is not for long.
    soft, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))
    try:
        return open_file(path, flags)
    finally:
        setrlimit(RLIMIT_NOFILE, (soft, hard))


def _private_copy(fd, length):
    # `mmap.mmap(fd)` would keep a descriptor, which user code that closes all of them makes somebody else's.
    room = make_room(-1, length, flags=_ANONYMOUS)
    error = _map_at(room, length, fd)
    if error:
        raise OSError(error, "cannot map %d bytes of the engine's memory: %s" % (length, os.strerror(error)))
    return room


def _system_map():
    # Not every Python has it; those that can run applies do.
    import ctypes

    system = ctypes.CDLL(None, use_errno=True).mmap
    system.restype = ctypes.c_void_p
    system.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | _MAP_FIXED
    address_of, char, last_error = ctypes.addressof, ctypes.c_char, ctypes.get_errno

    def map_at(room, length, fd):
        place = address_of(char.from_buffer(room))
        return 0 if system(place, length, _WRITABLE, flags, fd, 0) == place else last_error()

    return map_at


_ADD_SEALS = getattr(fcntl, "F_ADD_SEALS", None)
_SEALS = sum(getattr(fcntl, "F_SEAL_" + name, 0) for name in ("SHRINK", "GROW", "WRITE", "SEAL"))


class Sealed:
    """Memory that holds a copy of some bytes, which nobody can change any more. It goes with this object here, not there."""

    __slots__ = ("fd",)

    def __init__(self, fd):
        self.fd = fd

    def __del__(self):
        with suppress(OSError):
            close(self.fd)


def sealed(view):
    """A copy of a view of bytes that can be given to another process, or None where the system has no memory for it."""
    if _create is None or _ADD_SEALS is None:
        return None
    limit = getrlimit(RLIMIT_FSIZE)[0]
    if limit != RLIM_INFINITY and limit < len(view):
        # It holds for such memory, too, and whoever goes beyond it may be ended by a signal.
        return None
    try:
        memory = Sealed(_create("payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        done = 0
        while done < len(view):
            done += pwrite(memory.fd, view[done:], done)
        control(memory.fd, _ADD_SEALS, _SEALS)
    except OSError:
        return None
    return memory
