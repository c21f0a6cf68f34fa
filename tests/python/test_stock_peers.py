"""ipyparallel's own engine with this controller, and this engine with ipyparallel's own controller."""

import os
import signal
import sys

import numpy as np
import pytest
from ipyparallel import error
from programs import GENEROUS, wait_until

N = 2


def get(result):
    return result.get(timeout=GENEROUS)


def stock_controller(place, *arguments):
    controller = place.start([sys.executable, "-m", "ipyparallel.controller", "--ping=250", *arguments])
    wait_until(lambda: place.client_file().exists() and place.engine_file().exists(), "the stock controller's files")
    return controller


def stock_engine(place):
    return place.start([sys.executable, "-m", "ipyparallel.engine"])


@pytest.fixture(scope="module", params=["stock engines", "stock controller", "both kinds of engines"])
def cluster(request, tmp_path_factory):
    import programs

    with programs.a_place(tmp_path_factory.mktemp("ipython")) as place:
        if request.param == "stock controller":
            stock_controller(place, "--dictdb")
            place.engines(N, "--InteractiveShell.colors=nocolor")
        else:
            place.controller("--dictdb", "--ping=250")
            stock_engine(place)
            if request.param == "stock engines":
                stock_engine(place)
            else:
                place.engines(1)
        yield place


@pytest.fixture
def client(cluster):
    client = cluster.client(N)
    yield client
    client.close()


def test_views(client):
    for view in (client[:], client.broadcast_view()):
        assert view.apply_sync(lambda x: x + 1, 1) == [2] * N
        view.push({"a": 5}, block=True)
        assert view.pull("a", block=True) == [5] * N
        assert list(view.map_sync(abs, range(-10, 0))) == list(range(10, 0, -1))
    coalescing = client.broadcast_view()
    coalescing.is_coalescing = True
    assert coalescing.apply_sync(lambda: 3) == [3] * N
    assert client.load_balanced_view().map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))


def test_data_and_outputs(client):
    array = np.arange(1_000_000)
    assert np.array_equal(client[-1].apply_sync(lambda a: a * 2, array), array * 2)
    result = client[:].execute("print('seen')", silent=False)
    get(result)
    assert result.wait_for_output(GENEROUS)
    assert result.stdout == ["seen\n"] * N


def test_errors_and_dependencies(client):
    with pytest.raises(error.RemoteError, match="ZeroDivisionError"):
        client[0].apply_sync(lambda: 1 / 0)
    view = client.load_balanced_view()
    first = view.apply_async(os.getpid)
    with view.temp_flags(follow=first, retries=1):
        assert get(view.apply_async(os.getpid)) == get(first)


def completed_record(client, msg_id):
    # ipyparallel's DictDB cannot be asked for two things at once.
    (record,) = client.db_query({"msg_id": msg_id})
    return record if record["completed"] else None


def test_records_are_complete_whatever_became_of_the_request(client):
    good = client[:].apply_async(lambda: 1)
    bad = client[:].apply_async(lambda: 1 / 0)
    client.wait([good, bad], timeout=GENEROUS)
    for msg_id in good.msg_ids + bad.msg_ids:
        record = wait_until(lambda: completed_record(client, msg_id), "the completed record")
        assert record["submitted"] <= record["completed"] and record["started"] <= record["completed"]
    again = client.get_result(good.msg_ids, owner=False)
    assert get(again) == [1] * N


def test_control_requests(client):
    view = client[0]
    running = view.execute("import time; time.sleep(1)")
    queued = view.apply_async(lambda: 1)
    view.abort(queued, block=True)
    with pytest.raises(error.TaskAborted):
        get(queued)
    get(running)
    client[:].push({"b": 1}, block=True)
    client.clear(block=True)
    with pytest.raises(error.RemoteError, match="NameError"):
        view.pull("b", block=True)


def test_interrupt(client):
    import warnings

    result = client[:].execute("import time; print('begun', flush=True)\ntime.sleep(600)")
    wait_until(lambda: all("begun" in text for text in result.stdout), "the begin")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client.send_signal(signal.SIGINT, block=True)
    with pytest.raises(error.CompositeError) as failed:
        get(result)
    assert {ename for ename, *_ in failed.value.elist} == {"KeyboardInterrupt"}


# ---- ends; each with a cluster of its own


def test_a_stock_engine_is_shut_down(place):
    place.controller("--ping=250")
    engine = stock_engine(place)
    client = place.client(1)
    client.shutdown(targets=[0], block=True)
    engine.wait()
    wait_until(lambda: client.ids == [], "the engine's end")


def test_our_engine_is_shut_down_by_a_stock_controller(place):
    stock_controller(place)
    engine = place.engines(1)
    client = place.client(1)
    client.shutdown(targets=[0], block=True)
    engine.wait()
    wait_until(lambda: client.ids == [], "the engine's end")


def test_shutdown_of_our_hub_ends_stock_engines(place):
    controller = place.controller("--ping=250")
    engines = [stock_engine(place), stock_engine(place)]
    client = place.client(2)
    client.shutdown(hub=True, block=True)
    assert controller.wait() == 0
    for engine in engines:
        engine.wait()


def test_shutdown_of_a_stock_hub_ends_our_engines(place):
    controller = stock_controller(place)
    engines = place.engines(2)
    client = place.client(2)
    client.shutdown(hub=True, block=True)
    controller.wait()
    assert engines.wait() == 0


def test_a_stock_engine_that_is_killed(place):
    place.controller("--ping=250")
    stock_engine(place)
    client = place.client(1)
    pid = client[0].apply_sync(os.getpid)
    result = client[0].execute("import time; print('begun', flush=True)\ntime.sleep(600)")
    wait_until(lambda: "begun" in result.stdout, "the begin")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(error.RemoteError, match="EngineError"):
        get(result)
    wait_until(lambda: client.ids == [], "the engine's end")


def test_our_kernel_that_is_killed_with_a_stock_controller(place):
    stock_controller(place)
    place.engines(2)
    client = place.client(2)
    pid = client[0].apply_sync(os.getpid)
    result = client[0].execute("import time; print('begun', flush=True)\ntime.sleep(600)")
    wait_until(lambda: "begun" in result.stdout, "the begin")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(error.RemoteError, match="EngineError"):
        get(result)
    wait_until(lambda: client.ids == [1], "the engine's end")
