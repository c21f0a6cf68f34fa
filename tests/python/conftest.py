import os
import random
import signal
import subprocess
import sys
import time

import ipyparallel
import programs
import pytest
from mongo_server import MongoServer


def pytest_sessionstart(session):
    # As Ctrl-C: fixtures end what they started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not os.access(programs.BINARY, os.X_OK):
        pytest.exit(f"{programs.BINARY} is not there: build it first (cargo build), or set $IPCLUSTER_BIN", 2)


def pytest_report_header():
    return f"{programs.BINARY}, ipyparallel {ipyparallel.__version__}, {sys.executable}"


@pytest.fixture
def place(tmp_path):
    """An IPython folder for one test; nothing that was started on it outlives the test."""
    with programs.a_place(tmp_path) as place:
        yield place


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory):
    """The same for all tests of a module."""
    with programs.a_place(tmp_path_factory.mktemp("ipython")) as place:
        yield place


@pytest.fixture
def bare_python(tmp_path):
    """A Python that has nothing but its standard library."""
    folder = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


@pytest.fixture
def mongodb(place, tmp_path):
    return MongoServer(place, tmp_path / "mongodb")


@pytest.fixture
def chance():
    seed = int(os.environ.get("IPCLUSTER_TEST_SEED") or time.time_ns() % 1_000_000)
    print("seed", seed)
    return random.Random(seed)
