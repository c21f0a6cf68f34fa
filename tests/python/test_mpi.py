"""Engines that are the processes of an MPI job."""

import os
import shutil
import subprocess
import sys

import pytest
from programs import BINARY, running_engines, wait_until

USAGE, FAILED = 2, 1


@pytest.fixture
def with_mpi():
    # Not while this module is imported, which the engines do as well.
    command = [sys.executable, "-c", "from mpi4py import MPI"]
    if not shutil.which("mpiexec") or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("there is no mpiexec, or no mpi4py, here")


def mpiexec(place, n, *arguments):
    environment = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "TMPDIR": str(place.folder),
    }
    return place.start(["mpiexec", "-n", n, BINARY, "engine", "--mpi", *arguments], environment)


def neighbour_sum():
    """Every process sends to the next, and all add up."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    got = world.sendrecv(rank, dest=(rank + 1) % size, source=(rank - 1) % size)
    return rank, got, world.allreduce(rank)


@pytest.mark.usefixtures("with_mpi")
def test_four_engines_are_one_communicator(place):
    place.controller()
    job = mpiexec(place, 4)
    client = place.client(4)
    assert client.ids == [0, 1, 2, 3]
    view = client[:]
    assert view.apply_sync(neighbour_sum) == [(rank, (rank - 1) % 4, 6) for rank in range(4)]
    # As ipyparallel's default code leaves them in the namespace; ranks are ids.
    assert view.pull(["mpi_rank", "mpi_size"], block=True) == [[rank, 4] for rank in range(4)]
    client.shutdown(block=True)
    assert job.wait() == 0, job.output


@pytest.mark.usefixtures("with_mpi")
def test_the_job_ends_when_mpiexec_is_told_to(place):
    place.controller()
    job = mpiexec(place, 2)
    place.client(2)
    wait_until(lambda: len(running_engines(job)) == 2, "both engines")
    job.stop()


@pytest.mark.usefixtures("with_mpi")
def test_own_init_code(place):
    place.controller()
    mpiexec(place, 2, "--IPEngine.init_mpi=from mpi4py import MPI; twice = MPI.COMM_WORLD.rank * 2")
    assert place.client(2)[:].pull("twice", block=True) == [0, 2]


def test_outside_of_a_job(place):
    """As ipyparallel: the code runs, and the id is the next one."""
    place.controller()
    without = {name: "" for name in os.environ if name.startswith(("OMPI_", "PMI", "SLURM_"))}
    engine = place.ipcluster("engine", "--mpi", "--IPEngine.init_mpi=ran = True", environment=without)
    engine.wait_for("WARNING .*mpiexec")
    assert place.client(1)[0].pull("ran", block=True) is True


def test_init_code_that_fails_ends_the_engine(place):
    place.controller()
    code, output = place.run("engine", "--mpi", "--IPEngine.init_mpi=import no_such_mpi")
    assert code == FAILED
    assert "its kernel cannot start: ModuleNotFoundError" in output and "no_such_mpi" in output


@pytest.mark.parametrize("arguments", [["-n", "2"], ["--restart=always"], ["--kernel=python3"]])
def test_what_does_not_go_with_it_is_refused(place, arguments):
    place.controller()
    code, output = place.run("engine", "--mpi", *arguments)
    assert code == USAGE
    assert "--mpi" in output


def test_forks_are_left_out(place):
    """The kernel is this engine's own process: no process of imports stands between them."""
    place.controller()
    engine = place.engines(1, "--mpi", "--IPEngine.init_mpi=pass")
    assert place.client(1)[0].apply_sync(os.getppid) == engine.pid
