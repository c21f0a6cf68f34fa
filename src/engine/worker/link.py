"""The link between an engine and its kernel: messages of frames over a Unix socket pair.

User code may be interrupted anywhere: a signal handler that raises, a finalizer that prints. So every state of the
link that a half-done call could leave behind is one that the next call goes on from. What makes it so: a handler runs
between two bytecodes, never inside `list.extend(map(system_call, ...))`; the count of bytes moved is in the list or the
call has not happened.
"""

import mmap
import os
import sys
import threading
from contextlib import suppress
from errno import EBADF, ENOTSOCK, ETOOMANYREFS
from operator import itemgetter
from select import poll
from socket import SCM_RIGHTS, SOL_SOCKET
from struct import Struct, pack, unpack_from

from .shared import sealed

CONFIGURE, APPLY, REQUEST, EXIT, MAPPED = 1, 2, 3, 4, 5
READY, FAILED, REPLY, IOPUB, STREAM, DONE, LOG = 101, 102, 103, 104, 105, 106, 107
TOO_LARGE = 0
"""In place of a message that there was no memory for: its tag, and its frames, None for those that were not kept."""
PRELOAD, FORK, SIGNAL = 201, 202, 203
WARM, FORKED, EXITED, ERROR = 301, 302, 303, 304

_CHUNK = 65536
_IOV_MAX = 1024
_LITTLE = 512
"""Python has memory for objects of this size at hand when the system has none left for it."""
_JOINED = 8192
"""Messages below this size leave as one buffer: that costs less than a list of them."""
_COPIED = 4096
"""Frames of large messages below this size are handed out as bytes, larger ones as views that can be written to: then an
array that is made of one can be, too."""
_MANY_PAGES = 4 << 20
"""Frames from this size on are received in large pages."""
_PASSED = 2 << 20
"""Frames from this size on are passed on in memory of their own, which the engine and the controller need not copy."""
_IN_MEMORY = 1 << 63
_MADV_HUGEPAGE = getattr(mmap, "MADV_HUGEPAGE", None)
_mmap = mmap.mmap

_PREFIX = Struct("<II")
_HEADS = [Struct("<II%dQ" % n) for n in range(16)]
_first = itemgetter(0)


class Link:
    """One end of the socket pair. Any thread may send; one thread receives.

    `ended` is called when the other end is gone; it must not return.
    """

    def __init__(self, sock, ended=lambda: os._exit(1)):
        self._sock = sock
        self._ended = ended
        self._lock = threading.RLock()
        self._sendmsg = sock.sendmsg
        self._recv = sock.recv
        # First the counts of what was moved since the list was last tidied, then the buffers still to be moved.
        self._outgoing = [[]]
        self._received = []
        self._large = None
        self.disowned = False
        self.passes_memory = 0
        """Descriptors of memory that may go with one message."""

    def fileno(self):
        return self._sock.fileno()

    def push(self, tag, frames):
        """Queue a message; it leaves with the next `send` or `flush`, in order."""
        frames = [f if type(f) is bytes else _flat(f) for f in frames]
        lengths = [len(f) for f in frames]
        size = sum(lengths)
        if size < _JOINED:
            self._outgoing.append(b"".join((_head(tag, lengths), *frames)))
        elif size >= _PASSED and self.passes_memory:
            self._outgoing.extend(_with_memory(tag, lengths, frames, self.passes_memory))
        else:
            self._outgoing.extend((_head(tag, lengths), *frames))

    def send(self, tag, frames):
        self.push(tag, frames)
        self.flush()

    def flush(self):
        """Write what is queued. Blocks while the engine does not read."""
        if self.disowned or (self._lock._is_owned() and self._is_interrupted()):
            # Re-entered by a signal handler or a finalizer: the interrupted call below goes on with what was queued.
            return
        queue = self._outgoing
        try:
            with self._lock:
                while True:
                    if queue[0]:
                        _tidy(queue)
                    if len(queue) == 1:
                        return
                    head = queue[1]
                    if type(head) is _Accompanied:
                        try:
                            queue[0].extend(map(self._sendmsg, ([head],), (head.rights(),)))
                        except OSError as error:
                            if error.errno != ETOOMANYREFS:
                                raise
                            # So many descriptors of this user are under way that the system takes no more.
                            queue[1 : 2 + head.following] = head.as_bytes
                    else:
                        queue[0].extend(map(self._sendmsg, (_alone(queue),)))
        except OSError as error:
            if not self._is_over(error):
                raise
            self._ended()

    def _is_over(self, error):
        """Whether an error is of the socket, and not of a signal handler of user code: TimeoutError is an OSError, too."""
        if error.errno is None:
            return False
        if error.errno in (EBADF, ENOTSOCK):
            return True
        looking = poll()
        looking.register(self._sock, 0)
        return bool(looking.poll(0))

    def _is_interrupted(self):
        """Whether the owner of the lock, which is this thread, is still at work in `flush`.

        From Python 3.14 on a handler may raise when `with` has taken the lock, and before it sees to its release.
        """
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code is Link.flush.__code__ and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        while self._lock._is_owned():
            self._lock.release()
        return False

    def receive(self):
        """Receive once: blocks until something has come."""
        try:
            if self._large:
                queue = self._large[2]
                _tidy(queue)
                if len(queue) > 1:
                    queue[0].extend(map(_first, map(self._sock.recvmsg_into, (queue[1:_IOV_MAX],))))
                    if not queue[0][-1]:
                        self._ended()
            else:
                try:
                    self._received.extend(map(self._recv, (_CHUNK,)))
                except MemoryError:
                    self._received.extend(map(self._recv, (_LITTLE,)))
                if not self._received[-1]:
                    self._ended()
        except OSError as error:
            if not self._is_over(error):
                raise
            self._ended()

    def next(self):
        """The next whole message (tag, frames) of what was received, or None: then `receive` first."""
        if self._large:
            return self._next_large()
        received = self._received
        if not received:
            return None
        if len(received) > 1:
            received[:] = [b"".join(received)]
        data = received[0]
        size = len(data)
        if size < 8:
            return None
        tag, n = _PREFIX.unpack_from(data)
        start = 8 + 8 * n
        if size < start:
            return None
        lengths = unpack_from("<%dQ" % n, data, 8)
        end = start + sum(lengths)
        if end > size:
            if end > _CHUNK:
                self._begin_large(tag, lengths, data, start)
            return None
        frames = []
        for length in lengths:
            frames.append(data[start : start + length])
            start += length
        received[:] = [data[end:]] if end < size else []
        return tag, frames

    def wait(self):
        """The next message; blocks until it is there."""
        message = self.next()
        while message is None:
            self.receive()
            message = self.next()
        return message

    def _begin_large(self, tag, lengths, data, start):
        """Have the rest of a message received in place: into one buffer per frame, so that arrays are aligned."""
        frames = [_room(length) for length in lengths]
        views = []
        for frame, length in zip(frames, lengths):
            part = data[start : start + length]
            start += len(part)
            if frame is None:
                views.extend(_nowhere(length - len(part)))
                continue
            frame[: len(part)] = part
            if len(part) < length:
                views.append(memoryview(frame)[len(part) :])
        self._large = (tag, frames, [[], *views])

    def _next_large(self):
        tag, frames, queue = self._large
        _tidy(queue)
        if len(queue) > 1:
            return None
        # The part that came with the message's head was copied; it is dropped before anything else is received.
        self._received.clear()
        self._large = None
        if None in frames:
            return TOO_LARGE, [tag, *frames]
        return tag, [bytes(f) if len(f) < _COPIED else memoryview(f) for f in frames]

    @property
    def partial(self):
        """Whether a large message is on its way in: the rest is worth waiting for."""
        return self._large is not None

    def disown(self):
        """Leave the link to the parent: this process was forked by user code."""
        self.disowned = True
        self._outgoing = [[]]
        self._lock = threading.RLock()
        self._sock.close()


class _Accompanied(bytes):
    """The head of a message that memory goes along with: with its first byte, so that what is left of it is bytes.

    `following` buffers of the message come behind it; `as_bytes` is the whole message without memory.
    """

    def rights(self):
        return [(SOL_SOCKET, SCM_RIGHTS, pack("%di" % len(self.memory), *[m.fd for m in self.memory]))]


def _head(tag, lengths):
    n = len(lengths)
    return (_HEADS[n] if n < 16 else Struct("<II%dQ" % n)).pack(tag, n, *lengths)


def _with_memory(tag, lengths, frames, most):
    """A message as the buffers to be moved, large frames of it in memory."""
    memory = []
    rest = []
    as_bytes = [_head(tag, lengths), *frames]
    for number, frame in enumerate(frames):
        copy = None
        if lengths[number] >= _PASSED and len(memory) < most:
            copy = sealed(memoryview(frame))
        if copy is None:
            rest.append(frame)
        else:
            memory.append(copy)
            lengths[number] |= _IN_MEMORY
    if not memory:
        return as_bytes
    head = _Accompanied(_head(tag, lengths))
    head.memory, head.following, head.as_bytes = memory, len(rest), as_bytes
    return [head, *rest]


def _alone(queue):
    """The buffers that can be moved at once, up to the next one that is accompanied."""
    buffers = queue[1:_IOV_MAX]
    for number, buffer in enumerate(buffers):
        if type(buffer) is _Accompanied:
            return buffers[:number]
    return buffers


def _room(length):
    """A buffer for a frame, in large pages where the system has them: to fill small ones costs five times as much.

    None where there is no memory for it, as under a limit that user code has set.
    """
    try:
        if length < _MANY_PAGES or _MADV_HUGEPAGE is None:
            return bytearray(length)
        room = _mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (MemoryError, OSError):
        return None
    with suppress(OSError):
        # Refused by a system without them.
        room.madvise(_MADV_HUGEPAGE)
    return room


def _nowhere(length):
    """Buffers that so many bytes are received into to be dropped: the same one over and over."""
    scratch = memoryview(bytearray(min(length, _CHUNK)))
    while length > 0:
        yield scratch[:length]
        length -= len(scratch)


def _flat(buffer):
    """The bytes of any buffer without a copy where that is possible, with len() in bytes."""
    view = memoryview(buffer)
    if not view.contiguous or not view.nbytes:
        return view.tobytes()
    return view.cast("B")


def _tidy(queue):
    """Drop what was moved from the front of a queue [[count, ...], buffer, ...]."""
    moved = sum(queue[0])
    done = 1
    while done < len(queue) and moved >= len(queue[done]):
        moved -= len(queue[done])
        done += 1
    if moved:
        queue[: done + 1] = [[], memoryview(queue[done])[moved:]]
    else:
        queue[:done] = [[]]
