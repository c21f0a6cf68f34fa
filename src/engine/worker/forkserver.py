"""The fork server: imports everything once, then forks one kernel per FORK.

It runs no user code and starts no thread, so a fork is safe. A kernel that it forks returns from `serve`.
"""

import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import threading
from array import array

from . import main, process
from .link import ERROR, EXITED, FORK, FORKED, PRELOAD, SIGNAL, WARM, Link
from .messages import dump, load

_DESCRIPTORS = 3
_PR_SET_PDEATHSIG = 1
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class ControlLink(Link):
    """The link to the engine, which also carries descriptors."""

    def __init__(self, sock):
        super().__init__(sock)
        self.descriptors = []

    def receive(self):
        space = socket.CMSG_SPACE(_DESCRIPTORS * array("i").itemsize)
        data, ancillary, _, _ = self._sock.recvmsg(65536, space, _CLOEXEC)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                for fd in fds:
                    os.set_inheritable(fd, False)
                self.descriptors.extend(fds)
        if not data:
            raise EOFError
        self._received.append(data)

    def take_descriptors(self):
        taken, self.descriptors = self.descriptors[:_DESCRIPTORS], self.descriptors[_DESCRIPTORS:]
        return taken

    def close(self):
        for fd in self.descriptors:
            os.close(fd)
        self._sock.close()


class ForkServer:
    def __init__(self, fd):
        self.link = ControlLink(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd))
        os.set_inheritable(fd, False)
        self.pid = os.getpid()
        self.ranks = {}
        self.kernel = None
        self.prctl = None

    def serve(self):
        """Serve until the engine is gone. Returns (link descriptor, kernel) in each forked kernel."""
        try:
            self.warm_up()
            return self.loop()
        except EOFError:
            self.kill_all()
            os._exit(0)

    def warm_up(self):
        tag, frames = self.link.wait()
        if tag != PRELOAD:
            raise RuntimeError("the first message of a fork server is PRELOAD, not %d" % tag)
        request = load(frames[0])
        # What is made here lives for ever; collecting in between would only cost time.
        gc.disable()
        self.kernel = main.build_kernel(request.get("config") or {})
        for module in request.get("preload") or ():
            try:
                importlib.import_module(module)
            except Exception as error:
                self.report_error(None, error, "the module %r could not be preloaded" % module)
        self.prctl = load_prctl()
        gc.collect()
        gc.freeze()
        gc.enable()
        threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        self.link.send(WARM, (dump(dict(process.versions(self.kernel.mode), threads=threads)),))

    def loop(self):
        if self.prctl is not None:
            # From here on the link's end is heard at once, and then what kernels have started has to be ended as well.
            self.prctl(_PR_SET_PDEATHSIG, 0)
        wakeup, waker = socket.socketpair()
        wakeup.setblocking(False)
        waker.setblocking(False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.link, selectors.EVENT_READ)
            selector.register(wakeup, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is wakeup:
                        wakeup.recv(4096)
                        self.reap()
                    else:
                        self.link.receive()
                        forked = self.handle_received()
                        if forked is not None:
                            # In a kernel: nothing of the server's may stay open.
                            signal.set_wakeup_fd(-1)
                            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                            wakeup.close()
                            waker.close()
                            self.link.close()
                            return forked, self.kernel

    def handle_received(self):
        """Handle what has come. Returns the link's descriptor in a kernel that was forked."""
        message = self.link.next()
        while message is not None:
            tag, frames = message
            request = load(frames[0])
            if tag == FORK:
                fd = self.fork(request)
                if fd is not None:
                    return fd
            elif tag == SIGNAL:
                self.signal(request)
            message = self.link.next()
        return None

    def fork(self, request):
        rank = request["rank"]
        descriptors = self.link.take_descriptors()
        if len(descriptors) < _DESCRIPTORS:
            # The system drops descriptors that do not fit under this process's limit of open files.
            error = OSError("%d of %d descriptors came" % (len(descriptors), _DESCRIPTORS))
            self.report_error(rank, error, "raise the limit of open files (ulimit -n)")
            return None
        link, stdout, stderr = descriptors
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            self.report_error(rank, error, "no process could be forked for this engine")
            pid = -1
        if pid == 0:
            try:
                self.become_kernel(request, stdout, stderr)
            except Exception as error:
                process.report_failure(process.open_link(link), error)
                os._exit(1)
            return link
        for fd in (link, stdout, stderr):
            os.close(fd)
        if pid > 0:
            self.ranks[pid] = rank
            self.link.send(FORKED, (dump({"rank": rank, "pid": pid}),))
        return None

    def become_kernel(self, request, stdout, stderr):
        if self.prctl is not None:
            self.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.pid:
            os._exit(1)
        process.own_session()
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, standard in ((null, 0), (stdout, 1), (stderr, 2)):
            os.dup2(fd, standard)
            os.close(fd)
        process.update_environment(request.get("env") or {})
        if request.get("cpus") and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, request["cpus"])
        if request.get("open_files"):
            process.limit_open_files(request["open_files"])
        process.reseed()

    def signal(self, request):
        """Signal a kernel that has not been reaped: its pid cannot be another process's."""
        pid, signum = request["pid"], request["sig"]
        if pid in self.ranks:
            send = os.killpg if request.get("group") else os.kill
            try:
                send(pid, signum)
            except ProcessLookupError:
                return

    def reap(self):
        while True:
            try:
                pid, status, usage = self.take_ended()
            except ChildProcessError:
                return
            if pid == 0:
                return
            rank = self.ranks.pop(pid, None)
            if rank is None:
                continue
            if os.WIFSIGNALED(status):
                how = {"signal": os.WTERMSIG(status)}
            else:
                how = {"code": os.WEXITSTATUS(status)}
            maxrss = usage.ru_maxrss // 1024 if sys.platform == "darwin" else usage.ru_maxrss
            self.link.send(EXITED, (dump({"rank": rank, "pid": pid, "status": how, "maxrss_kb": maxrss}),))

    def take_ended(self):
        """A child that has ended, as `wait4` tells of it, after what it has started and left is ended, too."""
        if not hasattr(os, "waitid"):
            # macOS before Python 3.13 cannot look before it takes.
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            self.kill_group(pid)
            return pid, status, usage
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return 0, None, None
        # As long as it has not been waited for, its group's number is nobody else's.
        self.kill_group(ended.si_pid)
        return os.wait4(ended.si_pid, 0)

    def kill_group(self, pid):
        if pid in self.ranks:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)

    def kill_all(self):
        for pid in self.ranks:
            for kill in (os.killpg, os.kill):
                try:
                    kill(pid, signal.SIGKILL)
                except OSError:
                    continue

    def report_error(self, rank, error, hint):
        self.link.send(ERROR, (dump(dict(process.failure(error, hint), rank=rank)),))


def load_prctl():
    """Linux's prctl(2), by which a kernel dies with its server; None elsewhere."""
    if sys.platform != "linux":
        return None
    import ctypes

    return ctypes.CDLL(None).prctl


def serve(fd):
    process.own_session()
    return ForkServer(fd).serve()
