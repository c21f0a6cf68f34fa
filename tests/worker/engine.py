"""The engine's side of the link, for the tests: starts kernels and talks to them."""

import array
import collections
import contextlib
import fcntl
import itertools
import json
import os
import pathlib
import re
import select
import socket
import struct
import subprocess
import sys
import time

SOURCES = pathlib.Path(__file__).parents[2] / "src/engine/worker"
CONFIGURE, APPLY, REQUEST, EXIT, MAPPED = 1, 2, 3, 4, 5
READY, FAILED, REPLY, IOPUB, STREAM, DONE, LOG = 101, 102, 103, 104, 105, 106, 107
PRELOAD, FORK, SIGNAL = 201, 202, 203
WARM, FORKED, EXITED, ERROR = 301, 302, 303, 304
TIMEOUT = 60
IN_MEMORY = 1 << 63

Message = collections.namedtuple("Message", "tag frames")


def sources():
    return {p.stem: p.read_text() for p in SOURCES.glob("*.py") if p.stem != "bootstrap"}


def encode(tag, frames):
    return struct.pack(f"<II{len(frames)}Q", tag, len(frames), *map(len, frames)) + b"".join(frames)


class Link:
    """One end of a socket pair; reads with a deadline."""

    def __init__(self, sock):
        self.sock = sock
        self.data = bytearray()
        self.descriptors = collections.deque()
        self.in_memory = 0
        """Frames that came in memory of their own."""

    def send(self, tag, *frames):
        """Frames are buffers, or values to be sent as JSON."""
        buffers = (bytes, bytearray, memoryview)
        self.sock.sendall(encode(tag, [f if isinstance(f, buffers) else json.dumps(f).encode() for f in frames]))

    def _need(self, size, deadline):
        while len(self.data) < size:
            self.sock.settimeout(max(0.01, deadline - time.monotonic()))
            part, rights, _, _ = self.sock.recvmsg(1 << 20, socket.CMSG_SPACE(4 * 64))
            for level, kind, data in rights:
                assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                self.descriptors.extend(array.array("i", data))
            if not part:
                raise EOFError("the kernel closed its link")
            self.data += part

    def receive(self, timeout=TIMEOUT):
        deadline = time.monotonic() + timeout
        self._need(8, deadline)
        tag, n = struct.unpack_from("<II", self.data)
        start = 8 + 8 * n
        self._need(start, deadline)
        lengths = struct.unpack_from(f"<{n}Q", self.data, 8)
        self._need(start + sum(length for length in lengths if not length & IN_MEMORY), deadline)
        frames = []
        for length in lengths:
            if length & IN_MEMORY:
                frames.append(self._from_memory(length & ~IN_MEMORY))
                continue
            frames.append(bytes(self.data[start : start + length]))
            start += length
        del self.data[:start]
        return Message(tag, frames)

    def _from_memory(self, length):
        fd = self.descriptors.popleft()
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            assert seals & fcntl.F_SEAL_WRITE and seals & fcntl.F_SEAL_SHRINK
            content = os.pread(fd, length, 0)
        finally:
            os.close(fd)
        assert len(content) == length
        self.in_memory += 1
        return content

    def expect(self, tag):
        message = self.receive()
        assert message.tag == tag, message
        return json.loads(message.frames[0])

    def ends(self):
        """Wait for the end of the link, whatever comes before it."""
        try:
            while True:
                self.receive()
        except (EOFError, ConnectionResetError):
            return True

    def close(self):
        self.sock.close()


def start_python(mode, python=sys.executable, **options):
    """Start a worker process; returns (process, link, stdout, stderr)."""
    ours, theirs = socket.socketpair()
    bootstrap = (SOURCES / "bootstrap.py").read_text()
    process = subprocess.Popen(
        [python, "-c", bootstrap, mode, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        **options,
    )
    theirs.close()
    link = Link(ours)
    text = json.dumps(sources()).encode()
    link.sock.sendall(struct.pack("<IIQ", 1, 1, len(text)) + text)
    return process, link


class Result(collections.namedtuple("Result", "reply metadata buffers iopub log")):
    """All that one request led to."""

    def streams(self, name="stdout"):
        return "".join(m.frames[2].decode() for m in self.iopub if m.tag == STREAM and m.frames[0] == name.encode())

    def published(self, msg_type):
        found = [m.frames for m in self.iopub if m.tag == IOPUB and m.frames[0] == msg_type.encode()]
        return [json.loads(f[3]) for f in found]

    @property
    def shown(self):
        """The text of the one result of a cell."""
        (result,) = self.ok.published("execute_result")
        return result["data"]["text/plain"]

    @property
    def traceback(self):
        """Of an error, without colours."""
        return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(self.error["traceback"]))

    @property
    def ok(self):
        assert self.reply["status"] == "ok", self.reply
        return self

    @property
    def error(self):
        assert self.reply["status"] == "error", self.reply
        return self.reply


class Kernel:
    """A kernel under test."""

    numbers = itertools.count()

    def __init__(self, link, pid, stdout, process=None, **settings):
        self.link, self.stdout, self.process, self.pid = link, stdout, process, pid
        settings = {"engine_id": 3, "engine_uuid": "uuid-3", **settings}
        with contextlib.suppress(BrokenPipeError):
            # A kernel that has failed already has said so.
            link.send(CONFIGURE, settings)
        self.before_ready = []
        message = link.receive()
        while message.tag not in (READY, FAILED):
            self.before_ready.append(message)
            message = link.receive()
        self.failed = json.loads(message.frames[0]) if message.tag == FAILED else None
        self.ready = json.loads(message.frames[0]) if message.tag == READY else None

    @property
    def mode(self):
        return self.ready["mode"]

    def header(self, msg_type):
        return {
            "msg_id": f"m-{next(self.numbers)}",
            "msg_type": msg_type,
            "username": "u",
            "session": "s",
            "date": "2024-01-01T00:00:00.000000+00:00",
            "version": "5.3",
        }

    def post(self, msg_type, content, channel=b"shell", metadata=None, buffers=()):
        header = self.header(msg_type)
        self.link.send(REQUEST, channel, header, {}, metadata or {}, content, *buffers)
        return header["msg_id"]

    def post_apply(self, f, *args, **kwargs):
        return self.post_apply_buffers(pack(f, *args, **kwargs))

    def post_apply_buffers(self, buffers):
        header = self.header("apply_request")
        self.link.send(APPLY, header, {}, *[memoryview(b).cast("B") for b in buffers])
        return header["msg_id"]

    def finish(self, msg_id):
        """Wait for DONE of a request; checks that it had at most one reply, before DONE."""
        reply, iopub, log = None, [], []
        while True:
            message = self.link.receive()
            tag, frames = message
            if tag == DONE and frames[0].decode() == msg_id:
                break
            if tag == REPLY and frames[0].decode() == msg_id:
                assert reply is None, "two replies"
                reply = frames
            elif tag == LOG:
                log.append(frames)
            else:
                iopub.append(message)
        if reply is None:
            return Result(None, None, [], iopub, log)
        return Result(json.loads(reply[1]), json.loads(reply[2] or b"{}"), reply[3:], iopub, log)

    def request(self, msg_type, content, **kwargs):
        return self.finish(self.post(msg_type, content, **kwargs))

    def execute(self, code, **content):
        content = {"code": code, "silent": False, "user_expressions": {}, **content}
        return self.request("execute_request", content)

    def apply(self, f, *args, **kwargs):
        return self.finish(self.post_apply(f, *args, **kwargs))

    def value(self, f, *args, **kwargs):
        """What f(*args, **kwargs) returns there."""
        return value_of(self.apply(f, *args, **kwargs).ok)

    def until(self, wanted):
        """Receive messages up to the first for which `wanted` holds; returns it and those before."""
        seen = []
        while True:
            message = self.link.receive()
            if wanted(message):
                return message, seen
            seen.append(message)

    def read_stdout(self, size):
        """Read that many bytes of what came through descriptor 1."""
        return read_fd(self.stdout, size)

    def wait(self):
        return self.process.wait(TIMEOUT)


def value_of(result):
    from ipyparallel.serialize import deserialize_object

    return deserialize_object(result.buffers)[0]


def read_fd(fd, size):
    data = b""
    while len(data) < size:
        assert select.select([fd], [], [], TIMEOUT)[0], data
        part = os.read(fd, size - len(data))
        if not part:
            break
        data += part
    return data


def pack(f, *args, **kwargs):
    from ipyparallel.serialize import pack_apply_message

    # As if typed at a prompt: the kernel cannot import the test's module.
    getattr(f, "f", f).__module__ = "__main__"
    return pack_apply_message(f, args, kwargs)


def spawn(**settings):
    read, write = os.pipe()
    process, link = start_python("spawn", stdout=write)
    os.close(write)
    return Kernel(link, process.pid, read, process, **settings)


class ForkServer:
    def __init__(self, preload=(), config=None):
        self.process, self.link = start_python("fork-server")
        self.link.send(PRELOAD, {"preload": list(preload), "config": config or {}})
        self.errors = []
        message = self.link.receive()
        while message.tag == ERROR:
            self.errors.append(json.loads(message.frames[0]))
            message = self.link.receive()
        assert message.tag == WARM
        self.warm = json.loads(message.frames[0])

    def fork(self, rank=0, env=None, cpus=None, **settings):
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        data = encode(FORK, [json.dumps({"rank": rank, "env": env or {}, "cpus": cpus}).encode()])
        rights = array.array("i", [theirs.fileno(), write, write])
        self.link.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        theirs.close()
        os.close(write)
        forked = self.link.expect(FORKED)
        assert forked["rank"] == rank
        return Kernel(Link(ours), forked["pid"], read, engine_id=rank, engine_uuid=f"uuid-{rank}", **settings)

    def exited(self):
        return self.link.expect(EXITED)

    def close(self):
        self.link.close()
        self.process.wait(TIMEOUT)
