"""Start-up: one kernel, or a fork server; and the best mode that this Python has the packages for."""

import os
import sys

from . import process


def run(mode, fd):
    """Run as `mode`, "spawn" or "fork-server". Ends by the end of the interpreter, so that atexit functions run."""
    process.prepare_interpreter()
    kernel = None
    if mode == "fork-server":
        from . import forkserver

        # Returns in the kernels, not in the server.
        fd, kernel = forkserver.serve(fd)
    else:
        process.own_session()
    run_kernel(fd, kernel)
    sys.exit(0)


def run_kernel(fd, kernel):
    """Serve one engine. `kernel` is None when it is yet to be made."""
    link = process.open_link(fd)
    try:
        settings = process.receive_settings(link)
        if kernel is None:
            kernel = build_kernel(settings.config)
        kernel.prepare(link, settings)
    except Exception as error:
        process.report_failure(link, error)
        os._exit(1)
    kernel.serve()


def build_kernel(config):
    try:
        from . import apps

        return apps.build(config)
    except ImportError as error:
        process.missing.append(str(error))
    try:
        from . import shell

        return shell.build(config)
    except ImportError as error:
        process.missing.append(str(error))
    from . import plain

    return plain.build(config)
