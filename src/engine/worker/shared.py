"""Large payloads: in memory that processes have in common, rather than copied from one to the other.

What comes, a kernel maps for itself: nothing is copied but the pages that it writes to, and those are its own from then
on. What goes is written to such memory once, and sealed.
"""

import fcntl
import mmap
import os
import weakref
from contextlib import suppress

_mapped_rooms = weakref.WeakSet()
_MAP_FIXED = 0x10
_WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE


def can_map(path):
    """Whether this process can get at memory of the engine's, of which `path` is an example; None where it has none."""
    if path is None:
        return False
    try:
        # Where processes have other ids, it may lead to something else: to a pipe, for example, that nobody must read.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.pread(fd, 7, 0) == b"sample"
        finally:
            os.close(fd)
    except OSError:
        return False


def with_shared(places, frames):
    """The frames of a message, those that are in the engine's memory mapped: places are [frame, path, length]."""
    frames = list(frames)
    for number, path, length in places:
        frames[number] = memoryview(_mapped(path, length))
    return frames


def mapped():
    """All that is mapped now. Who keeps it decides when what a request gives up goes back to the system, which takes time."""
    return list(_mapped_rooms) if _mapped_rooms else ()


def _mapped(path, length):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        room = _private_copy(fd, length)
    finally:
        os.close(fd)
    _mapped_rooms.add(room)
    return room


def _private_copy(fd, length):
    # Not every Python has it; those that can run applies do.
    import ctypes

    # `mmap.mmap(fd)` would keep a descriptor, which user code that closes all of them makes somebody else's.
    room = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    place = ctypes.addressof(ctypes.c_char.from_buffer(room))
    if libc.mmap(place, length, _WRITABLE, mmap.MAP_PRIVATE | _MAP_FIXED, fd, 0) != place:
        error = ctypes.get_errno()
        raise OSError(error, "cannot map %d bytes of the engine's memory: %s" % (length, os.strerror(error)))
    return room


class Sealed:
    """Memory that holds a copy of some bytes, which nobody can change any more. It goes with this object here, not there."""

    __slots__ = ("fd",)

    def __init__(self, fd):
        self.fd = fd

    def view(self):
        return memoryview(mmap.mmap(self.fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))

    def __del__(self):
        with suppress(OSError):
            os.close(self.fd)


def sealed(view):
    """A copy of a view of bytes that can be given to another process, or None where the system has no memory for it."""
    try:
        memory = Sealed(os.memfd_create("payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        done = 0
        while done < len(view):
            done += os.pwrite(memory.fd, view[done:], done)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, seals)
    except (AttributeError, OSError):
        return None
    return memory
