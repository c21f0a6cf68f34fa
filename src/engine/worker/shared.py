"""Payloads that all kernels of an engine process are to have: in memory of the engine's, which each maps for itself.

Nothing is copied but the pages that a kernel writes to, and those are its own from then on.
"""

import ctypes
import mmap
import os

_MAP_FIXED = 0x10
_WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE
_FAILED = ctypes.c_void_p(-1).value


def can_map(path):
    """Whether this process can get at memory of the engine's, of which `path` is an example; None where it has none."""
    if path is None:
        return False
    try:
        with open(path, "rb") as file:
            return len(file.read(1)) == 1
    except OSError:
        return False


def with_shared(path, places, frames):
    """The frames of a message, those that are in the engine's memory mapped: places are [frame, offset, length]."""
    frames = list(frames)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for number, offset, length in places:
            frames[number] = memoryview(_mapped(fd, offset, length))
    finally:
        os.close(fd)
    return frames


def _mapped(fd, offset, length):
    # `mmap.mmap(fd)` would keep a descriptor, which user code that closes all of them makes somebody else's.
    room = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    place = ctypes.addressof(ctypes.c_char.from_buffer(room))
    if libc.mmap(place, length, _WRITABLE, mmap.MAP_PRIVATE | _MAP_FIXED, fd, offset) in (None, _FAILED):
        error = ctypes.get_errno()
        raise OSError(error, "cannot map %d bytes of the engine's memory: %s" % (length, os.strerror(error)))
    return room
