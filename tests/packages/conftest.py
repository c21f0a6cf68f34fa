"""Tests of the packages that `make packages` has left in target/packages/dist, each used as its users would."""

import os
import tarfile

import pytest
from dist import made


@pytest.fixture(scope="session")
def installation(tmp_path_factory):
    """The release archive, unpacked."""
    folder = tmp_path_factory.mktemp("archive")
    with tarfile.open(made("ipcluster-*-*-*.tar.gz")) as archive:
        archive.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top


@pytest.fixture
def clean_environment(tmp_path):
    """Nothing of the checkout's Python, and a home of its own."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
    return {**kept, "HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
