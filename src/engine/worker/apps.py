"""The kernel with the application objects around it that user code and ipykernel look for."""

import inspect
import os
import sys
from contextlib import contextmanager

import tornado.platform.asyncio  # noqa: F401  The first use of a loop would import it, after the fork.
from ipykernel.kernelapp import IPKernelApp
from IPython.extensions import storemagic  # noqa: F401  The same for IPython's one default extension.

from . import process
from .config import traitlets_config
from .kernel import LinkKernel

try:
    from .engineapp import EngineApp
except ImportError:
    # Without ipyparallel; and in ipyparallel 6 it is somewhere else, and binds no kernel where ipykernel's is there.
    EngineApp = None


class KernelApp(IPKernelApp):
    """Runs start-up code, and answers to IPKernelApp.instance()."""

    def _log_startup_failure(self, etype, evalue, stb):
        print(self.shell.InteractiveTB.stb2text(stb), file=sys.stderr)

    def start_up(self):
        """What IPKernelApp does after its shell is there. Failing start-up code prints its traceback."""
        shell = self.shell
        shell._showtraceback = self._log_startup_failure
        try:
            self.init_profile_dir()
            self.init_gui_pylab()
            self.init_extensions()
            self.init_code()
        finally:
            del shell._showtraceback


class EngineKernel(LinkKernel):
    """The kernel with its start-up."""

    built_with = {}
    """The configuration that it was made with, before the fork."""

    def start_up(self, settings):
        kernel_app = IPKernelApp.instance()
        config, code = split_start_up_code(settings.config)
        if config != self.built_with:
            reconfigure([self.parent, kernel_app, self, self.shell, *self.shell.configurables], config)
        settings.init_mpi(self.shell.user_ns)
        kernel_app.exec_lines = [*code["exec_lines"], *settings.exec_lines]
        kernel_app.exec_files = [*code["exec_files"], *settings.exec_files]
        if settings.ipython_dir:
            kernel_app.ipython_dir = settings.ipython_dir
        if settings.profile_dir:
            kernel_app.config.ProfileDir.location = settings.profile_dir
        # Without a key of the engine's, as with CURVE, one of this kernel's own: what the session has, it had before the
        # fork, and nobody may run code in a kernel that was bound because its messages need no signature.
        self.session.key = (settings.session.get("key") or os.urandom(16).hex()).encode()
        self.session.signature_scheme = settings.session.get("signature_scheme", "hmac-sha256")
        kernel_app.session = self.session
        kernel_app.start_up()
        if EngineApp:
            EngineApp.instance().adopt(settings)


def split_start_up_code(config):
    """`config` without the start-up code that it names, and that code. As with ipengine, IPKernelApp's comes first."""
    config = {section: dict(traits) for section, traits in config.items()}
    code = {"exec_lines": [], "exec_files": []}
    for section in ("InteractiveShellApp", "IPKernelApp"):
        for name in code:
            code[name] = config.get(section, {}).pop(name, None) or code[name]
    return {section: traits for section, traits in config.items() if traits}, code


def reconfigure(configurables, values):
    """Configure what was already made. It touches much memory that forked kernels share."""
    config = traitlets_config(values)
    for configurable in {id(c): c for c in configurables}.values():
        configurable.update_config(config)


@contextmanager
def without_debugger():
    """Have ipykernel take debugpy for absent: it costs memory and start-up time, and nobody debugs an engine by it."""
    sys.modules["debugpy"] = None
    try:
        yield
    finally:
        del sys.modules["debugpy"]


def build(config):
    """The kernel and its applications, as far as they can be before a fork."""
    values, _ = split_start_up_code(config)
    config = traitlets_config(values)
    config.HistoryManager.hist_file = ":memory:"
    log = process.kernel_logger()
    parent = EngineApp.instance(config=config, log=log) if EngineApp else None
    kernel_app = KernelApp(parent=parent, config=config, log=log)
    with without_debugger():
        kernel = EngineKernel.instance(parent=parent or kernel_app)
    kernel.built_with = values
    # ipykernel asks for it with every cell, and to make it anew costs as much as a small cell.
    run_cell = type(kernel.shell).run_cell_async
    run_cell.__signature__ = inspect.signature(run_cell)
    kernel_app.kernel, kernel_app.shell = kernel, kernel.shell
    kernel.shell.configurables.append(kernel_app)
    KernelApp._instance = IPKernelApp._instance = kernel_app
    if EngineApp:
        parent.kernel, parent.kernel_app = kernel, kernel_app
    return kernel
