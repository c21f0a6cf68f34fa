"""Which packages a test needs in the Python that runs it: the kernels under test run in the same one."""

import importlib.metadata
import importlib.util

import pytest


def _needs(*modules):
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {missing}")


def version(package):
    return tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])


ipython = _needs("IPython")
ipykernel = _needs("ipykernel")
ipyparallel = _needs("ipyparallel")
numpy = _needs("ipyparallel", "numpy")
no_ipyparallel = pytest.mark.skipif(importlib.util.find_spec("ipyparallel") is not None, reason="for Pythons without")
EXPECTED_MODE = (
    "ipyparallel"
    if importlib.util.find_spec("ipyparallel")
    else "ipython"
    if importlib.util.find_spec("IPython")
    else "plain"
)
