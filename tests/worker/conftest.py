import os
import sys

import pytest

sys.path.insert(0, __file__.rpartition("/")[0])
# Of the shell that tests are run from: IPython would take another Python's packages.
os.environ.pop("VIRTUAL_ENV", None)

import engine  # noqa: E402


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Starts kernels of their own for one test."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    started = []

    def start(**settings):
        kernel = engine.spawn(**settings)
        started.append(kernel)
        return kernel

    yield start
    for kernel in started:
        kernel.link.close()
        kernel.wait()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One kernel for the tests of a module that leave it as it was."""
    kernel = engine.spawn(ipython_dir=str(tmp_path_factory.mktemp("ipython")))
    yield kernel
    kernel.link.close()
    kernel.wait()


@pytest.fixture
def kernel(shared):
    """The shared kernel; fails the test that leaves it unable to answer."""
    yield shared
    shared.execute("pass").ok
