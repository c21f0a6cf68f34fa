"""ipyparallel reads the cluster files that are written here, and leaves them as they are.

`tests/data/cluster.json` is the form; a unit test of `cluster_file.rs` writes it to the letter.
"""

import json
import subprocess
import sys
from pathlib import Path

import ipyparallel
import pytest

FORM = Path(__file__).parent.parent / "data" / "cluster.json"


@pytest.fixture
def processes():
    started = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def cluster_file(tmp_path, monkeypatch, processes):
    """A cluster of two sleeping processes in a profile of its own."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    profile = tmp_path / "profile_default"
    for folder in ("security", "log"):
        (profile / folder).mkdir(parents=True)
    document = json.loads(FORM.read_text().replace("/p", str(profile)))
    controller, engine = processes
    document["controller"]["state"]["pid"] = controller.pid
    (engines,) = document["engines"]["sets"].values()
    engines["engines"]["0"]["pid"] = engine.pid
    path = profile / "security" / "cluster-.json"
    path.write_text(json.dumps(document))
    return path


def test_list_shows_the_cluster_and_leaves_its_file(cluster_file):
    before = cluster_file.read_bytes()
    command = [sys.executable, "-m", "ipyparallel.cluster", "list"]
    assert json.loads(subprocess.check_output([*command, "-o", "json"])) == [
        json.loads(before)
    ]
    _, line = subprocess.check_output(command, text=True).splitlines()
    assert line.split() == ["default", "''", "True", "1", "Local"]
    assert cluster_file.read_bytes() == before


def test_the_api_loads_and_stops_it(cluster_file, processes):
    before = cluster_file.read_bytes()
    cluster = ipyparallel.Cluster.from_file(profile="default", cluster_id="")
    assert cluster_file.read_bytes() == before
    assert cluster.controller.pid == processes[0].pid
    (engines,) = cluster.engines.values()
    assert engines.n == 1
    cluster.stop_cluster_sync()
    assert all(process.wait(10) is not None for process in processes)
    assert not cluster_file.exists()
