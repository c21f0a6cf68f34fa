"""A short run, with faults that are new each time; $IPCLUSTER_TEST_SEED brings the same ones again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 45

# Of one kind of fault alone.
FEWER_SECONDS = 20


@pytest.mark.timeout(600)
def test_a_short_run(tmp_path):
    run(tmp_path, "--seconds", str(SECONDS))


@pytest.mark.timeout(600)
def test_what_is_on_its_way_when_connections_break(tmp_path):
    run(tmp_path, "--seconds", str(FEWER_SECONDS), "--only", "engines' link broken")


def run(tmp_path, *arguments):
    seed = os.environ.get("IPCLUSTER_TEST_SEED")
    command = [sys.executable, Path(__file__).parent / "run.py", "--folder", tmp_path, *arguments]
    done = subprocess.run([*command, *(["--seed", seed] if seed else [])], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
