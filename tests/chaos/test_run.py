"""A short run, with faults that are new each time; $IPCLUSTER_TEST_SEED brings the same ones again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 45


@pytest.mark.timeout(600)
def test_a_short_run(tmp_path):
    seed = os.environ.get("IPCLUSTER_TEST_SEED")
    command = [sys.executable, Path(__file__).parent / "run.py", "--seconds", str(SECONDS), "--folder", tmp_path]
    done = subprocess.run([*command, *(["--seed", seed] if seed else [])], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
