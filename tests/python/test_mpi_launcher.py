"""`ipcluster start --engines=mpi`: the engines are the ranks of one program."""

import shutil
import signal
import subprocess
import sys

import pytest
from cluster_fixtures import allow_mpi, clusters, wait_until  # noqa: F401


@pytest.fixture
def mpi(clusters):
    command = [sys.executable, "-c", "from mpi4py import MPI"]
    if not shutil.which("mpiexec") or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("there is no mpiexec, or no mpi4py, here")
    allow_mpi(clusters)
    return clusters


def all_ranks():
    """Everybody's rank, which only a working communicator gives."""
    from mpi4py import MPI

    return MPI.COMM_WORLD.allgather(MPI.COMM_WORLD.Get_rank())


def test_engines_are_the_ranks_of_one_program(mpi):
    mpi.ok("start", "-n", "3", "--engines=mpi", "--daemonize")
    with mpi.client() as client:
        assert client.ids == [0, 1, 2]
        assert client[:].apply_sync(all_ranks) == [[0, 1, 2]] * 3
    listed = mpi.python("list")
    assert "MPI" in listed and " 3 " in listed
    mpi.ok("stop")
    mpi.assert_nothing_left()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends mpiexec with its parent")
def test_ranks_do_not_outlive_a_supervisor_that_is_killed(mpi):
    running = mpi.start(2, "--engines=mpi")
    running.signal(signal.SIGKILL)
    running.wait()
    mpi.wait_until_gone()
    mpi.run("stop")
    mpi.assert_nothing_left()


def test_a_missing_mpiexec_is_named(mpi):
    done = mpi.run(
        "start", "-n", "1", "--daemonize", "--engines=mpi", "--MPILauncher.mpi_cmd=['no-mpiexec']"
    )
    assert done.returncode == 1 and "no-mpiexec" in done.stdout, done.stdout
    mpi.assert_nothing_left()


def test_ranks_are_added_to_a_cluster_that_runs(mpi):
    mpi.ok("start", "-n", "1", "--daemonize")
    mpi.ok("engines", "-n", "2", "--engines=mpi", "--daemonize")
    with mpi.client() as client:
        assert len(client) == 3
        assert client[client.ids[1:]].apply_sync(all_ranks) == [[0, 1]] * 2
    refused = mpi.run("restart", "1")
    assert refused.returncode == 1 and "MPI" in refused.stdout, refused.stdout
    mpi.ok("stop")
    mpi.assert_nothing_left()


def test_an_elastic_cluster_keeps_one_program_and_adds_engines_one_by_one(mpi):
    from test_elastic import grows_and_shrinks

    mpi.ok("start", "--min=2", "--max=5", "--idle-timeout=1", "--engines=mpi", "--daemonize")
    with mpi.client() as client:
        assert client[:].apply_sync(all_ranks) == [[0, 1]] * 2
        # Those that come later end whenever each has nothing to do: they are no ranks of one program.
        grows_and_shrinks(client, mpi.folder, 5, left=2)
        assert client[[0, 1]].apply_sync(all_ranks) == [[0, 1]] * 2
        assert client[client.ids[-1]].apply_sync(all_ranks) == [0]
        wait_until(lambda: client.ids == [0, 1], "the end of the last one")
    mpi.ok("stop")
    mpi.assert_nothing_left()


def test_an_elastic_cluster_may_be_without_any_program(mpi):
    from test_elastic import hold

    mpi.ok("start", "--min=0", "--max=2", "--idle-timeout=1", "--engines=mpi", "--daemonize")
    gate = mpi.folder / "gate"
    with mpi.client() as client:
        assert client.ids == []
        tasks = [client.load_balanced_view().apply_async(hold, str(gate)) for _ in range(4)]
        wait_until(lambda: len(client.ids) == 2, "engines")
        gate.touch()
        for task in tasks:
            task.get(60)
        wait_until(lambda: client.ids == [], "their end")
    mpi.ok("stop")
    mpi.assert_nothing_left()
