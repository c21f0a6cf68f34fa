"""become_dask and stop_dask: a dask.distributed cluster on the engines, its scheduler started by the controller."""

import contextlib
import signal
import subprocess
import sys

import psutil
import pytest
from ipyparallel import error
from programs import GENEROUS, children, wait_until

distributed = pytest.importorskip("distributed")


@pytest.fixture
def cluster(place):
    controller = place.controller()
    place.engines(2)
    return controller, place.client(2)


def quiet(**arguments):
    """Arguments of a scheduler that opens no status page, and none of whose ports is taken."""
    return {"scheduler_args": {"dashboard_address": ":0", "host": "127.0.0.1", **arguments}, "dashboard": False}


def address_of_worker():
    from IPython import get_ipython

    return get_ipython().user_ns["dask_worker"].address


def workers(dask):
    return dask.scheduler_info(n_workers=-1)["workers"]


def schedulers(controller):
    found = []
    for process in children(controller.pid):
        with contextlib.suppress(psutil.Error):
            if "distributed" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_tasks_run_on_the_engines_and_the_engines_go_on(cluster):
    controller, client = cluster
    with client.become_dask(**quiet()) as dask:
        dask.wait_for_workers(2, timeout=GENEROUS)
        futures = dask.map(lambda x: x + 1, range(50))
        assert dask.gather(futures) == list(range(1, 51))
        pids = set(dask.run(lambda: __import__("os").getpid()).values())
        assert pids == set(client[:].apply_sync(lambda: __import__("os").getpid()))
        # A worker's namespace is the engine's.
        assert client[0].apply_sync(address_of_worker) in workers(dask)
        client.stop_dask()
    wait_until(lambda: not schedulers(controller), "the scheduler's end")
    assert client[:].apply_sync(lambda: 1) == [1, 1]


def test_it_can_be_had_again(cluster):
    controller, client = cluster
    for _ in range(2):
        with client.become_dask(**quiet()) as dask:
            dask.wait_for_workers(2, timeout=GENEROUS)
            assert dask.submit(sum, [1, 2]).result(GENEROUS) == 3
            client.stop_dask()
        wait_until(lambda: not schedulers(controller), "the scheduler's end")


def test_clients_share_one_scheduler(cluster, place):
    controller, client = cluster
    with client.become_dask(**quiet()) as first, place.client(2).become_dask(**quiet()) as second:
        assert first.scheduler.address == second.scheduler.address
        assert len(schedulers(controller)) == 1


def test_stopping_what_does_not_run(cluster):
    cluster[1].stop_dask()


def test_bad_arguments_are_answered(cluster):
    controller, client = cluster
    with pytest.raises(error.RemoteError, match="TypeError.*no_such_argument"):
        client.become_dask(scheduler_args={"no_such_argument": 1})
    wait_until(lambda: not schedulers(controller), "the scheduler's end")
    assert client[:].apply_sync(lambda: 1) == [1, 1]


def test_a_python_without_it_is_named_with_the_remedy(place, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    place.controller(f"--python={bare}/bin/python")
    place.engines(1)
    with pytest.raises(error.RemoteError, match=f"distributed.*{bare}/bin/python -m pip install distributed"):
        place.client(1).become_dask()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_controller(cluster, number):
    controller, client = cluster
    with client.become_dask(**quiet()):
        (scheduler,) = schedulers(controller)
        controller.send_signal(number)
        controller.wait()
        wait_until(lambda: not scheduler.is_running() or scheduler.status() == psutil.STATUS_ZOMBIE, "its end")


def test_one_that_dies_is_replaced(cluster):
    controller, client = cluster
    with client.become_dask(**quiet()):
        (first,) = schedulers(controller)
        first.kill()
        controller.wait_for("dask.distributed scheduler has ended: signal 9")
    # Its workers end by themselves when it does not come back.
    client.stop_dask()
    with client.become_dask(**quiet()) as dask:
        dask.wait_for_workers(2, timeout=GENEROUS)
        assert dask.submit(sum, [1, 2]).result(GENEROUS) == 3
