"""What a kernel process sets up for itself, whichever mode it is in."""

import builtins
import contextlib
import fcntl
import logging
import os
import platform
import random
import resource
import socket
import sys
from traceback import format_exception

from .link import CONFIGURE, FAILED, LOG, READY, Link
from .messages import dump, encode, error_content, load
from .shared import can_map

_LARGE_LIMIT = 65536
_ABOVE_MOST = 4096
_builtins = builtins.__dict__
_builtins_at_first = dict(_builtins)


class Settings:
    """CONFIGURE's content.

    engine_id, engine_uuid; config: traitlets configuration {Class: {trait: value}}; exec_lines, exec_files: start-up
    code; mpi_init: code run before them, which must not fail, or null; work_dir; env {name: value, null to unset}; profile_dir and
    ipython_dir; session {key, signature_scheme} for bind_kernel's connection file; shared_memory: the path of some memory
    of the engine's, or null; descriptors: of such memory that may go with one message.
    """

    def __init__(self, values):
        self.engine_id = values.get("engine_id", -1)
        self.engine_uuid = values.get("engine_uuid", "")
        self.config = values.get("config") or {}
        self.exec_lines = list(values.get("exec_lines") or ())
        self.exec_files = list(values.get("exec_files") or ())
        self.mpi_init = values.get("mpi_init")
        self.work_dir = values.get("work_dir")
        self.env = values.get("env") or {}
        self.profile_dir = values.get("profile_dir")
        self.ipython_dir = values.get("ipython_dir")
        self.session = values.get("session") or {}
        self.shared_memory = values.get("shared_memory")
        self.descriptors = values.get("descriptors", 32)
        self.maps = False
        """Whether this process can map the engine's memory."""

    def init_mpi(self, namespace):
        """Become a part of the MPI job. A kernel that cannot is none."""
        if self.mpi_init:
            exec(compile(self.mpi_init, "<mpi_init>", "exec"), namespace)

    def engine_info(self, method):
        """What an error says about where it was raised."""
        return {"engine_uuid": self.engine_uuid, "engine_id": self.engine_id, "method": method}


def open_link(fd):
    """The kernel's end of its link, out of the way of user code that closes descriptors."""
    fd = _move_up(fd)
    os.set_inheritable(fd, False)
    link = Link(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd))
    os.register_at_fork(after_in_child=link.disown)
    return link


def _move_up(fd):
    """Move a descriptor above the soft limit of open files, where "close all descriptors" does not reach."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A descriptor's number costs kernel memory (8 bytes each, all below it included).
    limit = soft if 0 <= soft <= _LARGE_LIMIT else _ABOVE_MOST
    if limit < hard or hard == resource.RLIM_INFINITY:
        reach, then = limit + 1, soft
    else:
        # And one is left for what `shared` opens for a moment.
        reach, then = limit, limit - 2
    try:
        if soft != resource.RLIM_INFINITY and soft < reach:
            resource.setrlimit(resource.RLIMIT_NOFILE, (reach, hard))
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, reach - 1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (then, hard))
    except (OSError, ValueError):
        return fd
    os.close(fd)
    return moved


def limit_open_files(soft):
    """Take back what the engine has raised for itself."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def own_session():
    """Leave the engine's process group: the terminal's Ctrl-C is the engine's to pass on, to this group as a whole."""
    try:
        os.setsid()
    except PermissionError:
        # Already a group leader, because it was started that way.
        return


def receive_settings(link):
    """Wait for CONFIGURE and apply what concerns the process."""
    tag, frames = link.wait()
    if tag != CONFIGURE:
        raise RuntimeError("the first message of a kernel is CONFIGURE, not %d" % tag)
    settings = Settings(load(frames[0]))
    settings.maps = can_map(settings.shared_memory)
    link.passes_memory = settings.descriptors if settings.maps else 0
    update_environment(settings.env)
    if settings.ipython_dir:
        os.environ["IPYTHONDIR"] = settings.ipython_dir
    if settings.work_dir:
        os.chdir(settings.work_dir)
    return settings


def update_environment(env):
    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(value)


def prepare_interpreter():
    """What ipengine gives: importable working directories, no arguments, unbuffered text."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    # As in ipyparallel's engines, what lies beside the start is found wherever user code changes to.
    with contextlib.suppress(OSError):
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(sys.path.index("") + 1, here)
    sys.argv[:] = ["ipengine"]
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.reconfigure(line_buffering=True, errors="backslashreplace")


def mend_builtins():
    """Bring back those that user code has taken away: the library that the kernel runs on does nothing without them."""
    for name, value in _builtins_at_first.items():
        if _builtins.get(name) is None:
            _builtins[name] = value


def reseed():
    """Give a forked kernel randomness of its own."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


missing = []
"""Why this process is in no better mode: the import errors of those."""


def versions(mode):
    """What READY and WARM say."""
    return {
        "pid": os.getpid(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "ipython": _version("IPython"),
        "ipykernel": _version("ipykernel"),
        "ipyparallel": _version("ipyparallel"),
        "mode": mode,
        "missing": missing,
    }


def _version(package):
    module = sys.modules.get(package)
    return getattr(module, "__version__", None)


def report_ready(link, mode, maps=False):
    """`maps`: it understands MAPPED."""
    link.send(READY, (dump(dict(versions(mode), maps=maps)),))


def report_failure(link, error):
    """Tell the engine that this process cannot be a kernel."""
    link.send(FAILED, (dump(failure(error, "no kernel could be started with %s" % sys.executable)),))


def failure(error, hint):
    lines = format_exception(type(error), error, error.__traceback__)
    content = error_content(error, lines)
    del content["status"]
    return dict(content, hint=hint)


class LinkHandler(logging.Handler):
    """Hands the kernel's own log records to the engine's log."""

    def __init__(self, link):
        super().__init__()
        self._link = link

    def emit(self, record):
        try:
            self._link.send(LOG, (record.levelname.encode(), encode(self.format(record))))
        except Exception:
            self.handleError(record)


def kernel_logger():
    """The logger of the kernel itself: nothing of it goes to user code's root logger."""
    logger = logging.getLogger("ipcluster_kernel")
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    return logger
