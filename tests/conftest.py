"""What all tests need: a home of their own, which goes with them, and signals that are not ignored."""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

_FOLDER = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    # What is ignored here, as under nohup or in the background of a script, is ignored by every program that is started.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    # Short: the names of ipc sockets may have about a hundred characters.
    folder = config.stash[_FOLDER] = Path(tempfile.mkdtemp(prefix="ipcluster-"))
    # At the very end of this process, after what tests have left to be done there.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "home").mkdir()
    os.environ["HOME"] = str(folder / "home")
    for name in [name for name in os.environ if name.startswith(("IPYTHON", "IPP_", "JUPYTER_", "XDG_"))]:
        del os.environ[name]
    if config.option.basetemp is None:
        config.option.basetemp = str(folder / "tmp")


def pytest_sessionfinish(session, exitstatus):
    if exitstatus != pytest.ExitCode.OK:
        atexit.unregister(shutil.rmtree)
        print(f"\nthe tests' files are in {session.config.stash[_FOLDER]}")
