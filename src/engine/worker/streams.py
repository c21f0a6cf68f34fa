"""sys.stdout and sys.stderr of a kernel."""

import io
import os
import sys
from contextvars import ContextVar

from .link import STREAM
from .messages import NO_PARENT, dump, encode


class Parents:
    """Which request an output belongs to.

    As with ipykernel's streams: the request whose context the caller runs in (so that a background asyncio task keeps
    its cell), else, in threads of user code, the latest request.
    """

    def __init__(self):
        self._of_context = ContextVar("parent")
        self._latest = NO_PARENT
        self.current = None
        """The raw header of the shell request being handled now."""

    def set(self, raw_header):
        self._latest = raw_header
        self._of_context.set(raw_header)

    def set_context(self, raw_header):
        return self._of_context.set(raw_header)

    def reset_context(self, token):
        self._of_context.reset(token)

    def raw_header(self):
        """The parent's header of an output written here and now."""
        return self._of_context.get(self._latest)

    def frame(self):
        """The same as the `parent` frame of a message."""
        raw = self.raw_header()
        return b"" if raw is self.current else raw


class LinkStream(io.TextIOBase):
    """A text stream whose every write is a message to the engine, which gathers small ones.

    close() does nothing: a request that closes sys.stdout must not silence the ones after it.
    """

    encoding = "UTF-8"
    errors = "replace"

    def __init__(self, link, name, fd, parents):
        self.name = "<%s>" % name
        self._name = name.encode()
        self._link = link
        self._fd = fd
        self._parents = parents
        self.echo = None
        """Called with (name, header of the parent, text) of every write, once frontends are attached."""

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError("write() argument must be str, not %s" % type(text).__name__)
        if self._link.disowned:
            _write_all(self._fd, encode(text))
        elif text:
            self._link.send(STREAM, (self._name, self._parents.frame(), encode(text)))
            if self.echo is not None:
                self.echo(self._name.decode(), self._parents.raw_header(), text)
        return len(text)

    def flush(self):
        self._link.flush()

    def close(self):
        self.flush()

    @property
    def buffer(self):
        """For programs that write bytes to sys.stdout.buffer."""
        return _Bytes(self)

    def fileno(self):
        """The descriptor below, which subprocesses write to; the engine reads its other end."""
        return self._fd

    def writable(self):
        return True

    def isatty(self):
        return False

    # ipykernel's shell tells its streams the parent through these.

    def set_parent(self, parent):
        self._parents.set(_raw_header(parent))

    def set_thread_parent(self, parent):
        return self._parents.set_context(_raw_header(parent))

    def reset_thread_parent(self, token):
        self._parents.reset_context(token)


class _Bytes(io.RawIOBase):
    def __init__(self, stream):
        self._stream = stream

    def writable(self):
        return True

    def write(self, data):
        self._stream.write(bytes(data).decode("utf-8", "replace"))
        return len(data)

    def fileno(self):
        return self._stream.fileno()


def _raw_header(parent):
    raw = getattr(parent, "raw_header", None)
    return dump(parent.get("header", parent)) if raw is None else raw


def _write_all(fd, data):
    while data:
        data = data[os.write(fd, data) :]


class Standard:
    """The kernel's sys.stdout and sys.stderr."""

    def __init__(self, link, parents):
        self.stdout = sys.stdout = LinkStream(link, "stdout", 1, parents)
        self.stderr = sys.stderr = LinkStream(link, "stderr", 2, parents)

    def settle(self):
        """After a request: flush what user code has put in place of a stream, or take back one that is broken."""
        for name, own in (("stdout", self.stdout), ("stderr", self.stderr)):
            stream = getattr(sys, name, None)
            if stream is not own and not _flushes(stream):
                setattr(sys, name, own)


def _flushes(stream):
    try:
        stream.flush()
        return not getattr(stream, "closed", False)
    except BaseException:
        # None, closed, or no stream at all.
        return False
