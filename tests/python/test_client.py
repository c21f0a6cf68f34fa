"""The stock client's views and queries against this controller and this engine."""

import os
import signal
import time

import ipyparallel as ipp
import numpy as np
import pytest
from ipyparallel import error
from programs import GENEROUS, running_engines, wait_until

N = 4

VIEWS = ["direct", "load_balanced", "broadcast", "coalescing"]
DIRECT = ["direct", "broadcast", "coalescing"]


@pytest.fixture(scope="module")
def cluster(shared_place):
    shared_place.controller("--dictdb", "--ping=500")
    shared_place.engines(N, "--InteractiveShell.colors=nocolor")
    return shared_place


@pytest.fixture
def client(cluster):
    """A client of the module's cluster, whose engines hold no variables."""
    client = cluster.client(N)
    yield client
    client.clear(block=True)
    client.close()


def view_of(client, kind):
    if kind == "direct":
        return client[:]
    if kind == "load_balanced":
        return client.load_balanced_view()
    view = client.broadcast_view()
    view.is_coalescing = kind == "coalescing"
    return view


def get(result):
    return result.get(timeout=GENEROUS)


# ---- views


@pytest.mark.parametrize("kind", DIRECT)
def test_apply_runs_on_every_target(client, kind):
    view = view_of(client, kind)
    assert get(view.apply_async(lambda a, b=0: a + b, 1, b=2)) == [3] * N
    assert view.apply_sync(os.getpid) == client[:].apply_sync(os.getpid)
    assert len(set(view.apply_sync(os.getpid))) == N


def test_a_load_balanced_apply_runs_on_one_engine(client):
    view = client.load_balanced_view()
    assert view.apply_sync(os.getpid) in client[:].apply_sync(os.getpid)
    results = [view.apply_async(lambda i: i * i, i) for i in range(50)]
    assert [get(result) for result in results] == [i * i for i in range(50)]


@pytest.mark.parametrize("kind", VIEWS)
def test_map_keeps_the_order(client, kind):
    view = view_of(client, kind)
    assert list(get(view.map_async(lambda x: 2 * x, range(101)))) == [2 * x for x in range(101)]
    assert list(view.map_sync(pow, range(5), [3] * 5)) == [x**3 for x in range(5)]


def test_map_spreads_over_all_engines(client):
    def where(_):
        import os
        import time

        time.sleep(0.05)
        return os.getpid()

    spread = client.load_balanced_view().map_sync(where, range(8 * N), chunksize=1)
    assert set(spread) == set(client[:].apply_sync(os.getpid))


def test_unordered_map_gives_what_is_done_first(client):
    def nap(seconds):
        import time

        time.sleep(seconds)
        return seconds

    naps = [1.5, 0.0, 0.05]
    result = client.load_balanced_view().map_async(nap, naps, ordered=False, chunksize=1)
    assert list(result)[-1] == 1.5


@pytest.mark.parametrize("kind", DIRECT)
def test_push_and_pull(client, kind):
    view = view_of(client, kind)
    get(view.push({"a": 5, "b": "text"}, block=False))
    assert get(view.pull("a", block=False)) == [5] * N
    assert view.pull(["a", "b"], block=True) == [[5, "text"]] * N
    # Not blocking, but in order.
    view["c"] = [1, 2]
    assert view["c"] == [[1, 2]] * N


@pytest.mark.parametrize("kind", DIRECT)
def test_execute_reaches_the_namespace(client, kind):
    view = view_of(client, kind)
    view.execute("import math\nd = math.factorial(5)", block=True)
    assert view.pull("d", block=True) == [120] * N
    view.execute("d += 1", block=True)
    assert view.apply_sync(ipp.interactive(lambda: d)) == [121] * N  # noqa: F821


def test_scatter_and_gather(client):
    view = client[:]
    view.scatter("x", list(range(10)), block=True)
    assert [len(part) for part in view["x"]] == [3, 3, 2, 2]
    assert view.gather("x", block=True) == list(range(10))
    view.scatter("y", np.arange(16), block=True)
    np.testing.assert_array_equal(view.gather("y", block=True), np.arange(16))
    view.scatter("id", client.ids, flatten=True, block=True)
    assert view["id"] == client.ids


def test_one_target_answers_without_a_list(client):
    assert client[0].apply_sync(lambda: 1) == 1
    assert client[client.ids[-1]].pull("x", block=False).get is not None
    with pytest.raises(error.RemoteError, match="NameError"):
        client[0].pull("x", block=True)


def test_px(client, capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        view = client[:]
        view.block = True
        view.activate()
        shell.run_line_magic("px", "e = 7")
        assert client[:]["e"] == [7] * N
        shell.run_line_magic("px", "print('to be seen', e)")
        assert capsys.readouterr().out.count("to be seen 7") == N
        shell.run_cell_magic("px", "--targets 1", "f = e + 1")
        assert client[1]["f"] == 8
        with pytest.raises(error.AlreadyDisplayedError):
            shell.run_line_magic("px", "1/0")
        assert capsys.readouterr().err.count("ZeroDivisionError: division by zero") == N
    finally:
        InteractiveShell.clear_instance()


def test_dependencies_run_after_and_where(client):
    view = client.load_balanced_view()
    first = view.apply_async(os.getpid)
    with view.temp_flags(follow=first):
        followed = view.apply_async(os.getpid)
    with view.temp_flags(after=followed):
        last = view.apply_async(time.time)
    assert get(followed) == get(first)
    assert get(last) > 0
    failing = view.apply_async(lambda: 1 / 0)
    with view.temp_flags(after=failing):
        never = view.apply_async(os.getpid)
    with pytest.raises(error.RemoteError, match="ImpossibleDependency"):
        get(never)
    with pytest.raises(error.RemoteError, match="ZeroDivisionError"):
        get(failing)


def test_retries_run_again(client):
    @ipp.interactive
    def fails_twice():
        global attempts
        attempts = globals().get("attempts", 0) + 1
        if attempts < 3:
            raise RuntimeError(attempts)
        return attempts

    view = client.load_balanced_view(targets=[0])
    with view.temp_flags(retries=3):
        assert view.apply_sync(fails_twice) == 3


def test_a_timeout_of_a_dependency_is_an_error(client):
    view = client.load_balanced_view()
    slow = client.load_balanced_view().apply_async(time.sleep, 2)
    with view.temp_flags(after=slow, timeout=0.2):
        late = view.apply_async(os.getpid)
    with pytest.raises(error.RemoteError, match="TaskTimeout.* 0.2 s for the tasks that it depends on"):
        get(late)
    get(slow)


# ---- data


def test_hundred_megabytes_there_and_back(client):
    array = np.arange(100_000_000 // 8, dtype=np.float64)
    view = client[0]
    view.push({"array": array}, block=True)
    view.execute("total = float(array.sum())", block=True)
    assert view["total"] == float(array.sum())
    back = view.pull("array", block=True)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_hundred_megabytes_as_an_argument_and_by_the_task_queue(client):
    array = np.random.default_rng(1).integers(0, 255, 100_000_000, dtype=np.uint8)
    back = client.load_balanced_view().apply_sync(lambda a: a[::-1].copy(), array)
    assert np.array_equal(back, array[::-1])


@pytest.mark.parametrize("length", [1000, 100_000])
def test_arrays_can_be_changed_in_place_on_the_engines(client, length):
    array = np.arange(float(length))[::-1].copy()

    def sort(array, more):
        array.sort()
        more["array"] += 1
        return array[0] + more["array"][0]

    assert client.load_balanced_view().apply_sync(sort, array, {"array": np.zeros(length)}) == 1
    view = client[:]
    view.push({"pushed": array}, block=True)
    view.scatter("part", np.zeros(length * len(view)), block=True)
    view.execute("pushed += 1; part += 1", block=True).get()
    assert view["part"][0][0] == 1 and view["pushed"][0][0] == length


@pytest.mark.parametrize("kind", ["broadcast", "coalescing"])
def test_ten_megabytes_to_all(client, kind):
    array = np.arange(10_000_000 // 8, dtype=np.int64)
    sums = view_of(client, kind).apply_sync(lambda a: int(a.sum()), array)
    assert sums == [int(array.sum())] * N


def test_many_small_requests_at_once(client):
    results = client.load_balanced_view().map_async(lambda x: -x, range(2000), chunksize=1)
    assert list(get(results)) == [-x for x in range(2000)]


def test_closures_classes_and_pandas(client):
    factor = 3

    class Point:
        def __init__(self, x):
            self.x = x

    client[:].use_cloudpickle().get(timeout=GENEROUS)
    try:
        assert client[:].apply_sync(lambda p: p.x * factor, Point(2)) == [6] * N
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"a": [1, 2, 3]})
        assert client[0].apply_sync(lambda f: int(f["a"].sum()), frame) == 6
    finally:
        client[:].use_pickle().get(timeout=GENEROUS)


# ---- outputs


def test_streams_arrive_with_their_result(client):
    def speak():
        import sys

        print("to stdout")
        print("to stderr", file=sys.stderr)
        return "value"

    result = client[:].apply_async(speak)
    assert get(result) == ["value"] * N
    result.wait_for_output(GENEROUS)
    assert result.stdout == ["to stdout\n"] * N
    assert result.stderr == ["to stderr\n"] * N


def test_output_of_a_first_request_is_not_lost(cluster):
    """The subscription and the request go different ways."""
    for _ in range(30):
        client = cluster.client(N)
        result = client[:].apply_async(print, "first")
        get(result)
        assert result.wait_for_output(GENEROUS)
        assert result.stdout == ["first\n"] * N
        client.close()


def test_a_stream_arrives_while_the_request_runs(client):
    def speak_and_wait():
        import sys
        import time

        print("early", flush=True)
        sys.stdout.flush()
        time.sleep(3)

    result = client[0].apply_async(speak_and_wait)
    wait_until(lambda: "early" in (result.stdout or ""), "the output")
    assert not result.ready()
    get(result)


def test_output_of_child_processes_arrives(client):
    result = client[0].execute("import os; _ = os.system('echo from a child')")
    get(result)
    result.wait_for_output(GENEROUS)
    wait_until(lambda: "from a child" in result.stdout, "the child's output")


def test_the_last_expression_is_the_result(client):
    result = client[0].execute("21 * 2", silent=False)
    get(result)
    result.wait_for_output(GENEROUS)
    assert result.execute_result["data"]["text/plain"] == "42"


def test_rich_display(client):
    code = "from IPython.display import HTML, display\ndisplay(HTML('<b>bold</b>'))\nprint('after')"
    result = client[0].execute(code)
    get(result)
    result.wait_for_output(GENEROUS)
    (shown,) = result.outputs
    assert shown["data"]["text/html"] == "<b>bold</b>"
    assert result.stdout == "after\n"


def test_data_is_published_while_a_request_runs(client):
    def publish():
        from ipyparallel.engine.datapub import publish_data

        publish_data({"step": 3})

    result = client[0].apply_async(publish)
    get(result)
    wait_until(lambda: result.data.get("step") == 3, "the published data")


# ---- errors


@pytest.mark.parametrize("kind", DIRECT)
def test_errors_name_engine_and_place(client, kind):
    def outer():
        def inner():
            return 1 / 0

        return inner()

    view = view_of(client, kind)
    if kind == "coalescing":
        # One reply for all engines holds one error: that of the first.
        with pytest.raises(error.RemoteError, match="ZeroDivisionError: division by zero") as failed:
            view.apply_sync(outer)
        assert "inner" in failed.value.traceback
        return
    with pytest.raises(error.CompositeError) as failed:
        view.apply_sync(outer)
    assert len(failed.value.elist) == N
    ename, evalue, traceback, engine_info = failed.value.elist[0]
    assert (ename, evalue) == ("ZeroDivisionError", "division by zero")
    assert "inner" in str(traceback) and "1 / 0" in str(traceback)
    assert engine_info["method"] == "apply"
    assert {info["engine_id"] for *_, info in failed.value.elist} == set(client.ids)


def test_a_syntax_error_is_an_error(client):
    with pytest.raises(error.RemoteError, match="SyntaxError"):
        client[0].execute("1 +", block=True)


def test_a_failing_execute_aborts_those_behind_it(client):
    view = client[0]
    first = view.execute("import time; time.sleep(0.5); 1/0", silent=False)
    second = view.execute("g = 1", silent=False)
    with pytest.raises(error.RemoteError, match="ZeroDivisionError"):
        get(first)
    with pytest.raises(error.TaskAborted):
        get(second)
    with pytest.raises(error.RemoteError, match="NameError"):
        view.pull("g", block=True)


class Unloadable:
    def __reduce__(self):
        return (int, ("no number",))


def test_what_cannot_be_unpickled_is_an_error(client):
    with pytest.raises(error.RemoteError, match="ValueError"):
        client[0].apply_sync(lambda x: x, Unloadable())
    assert client[0].apply_sync(lambda: 1) == 1


def test_exit_in_user_code_ends_no_engine(client):
    with pytest.raises(error.RemoteError, match="SystemExit"):
        client[0].apply_sync(exec, "raise SystemExit(3)")
    with pytest.raises(error.RemoteError, match="SystemExit"):
        client[0].execute("import sys; sys.exit(3)", block=True)
    assert client[0].apply_sync(lambda: "alive") == "alive"


# ---- control


def test_abort_drops_what_has_not_begun(client):
    view = client[0]
    running = view.apply_async(time.sleep, 1.5)
    queued = [view.apply_async(time.sleep, 30) for _ in range(3)]
    view.abort(queued, block=True)
    for result in queued:
        with pytest.raises(error.TaskAborted):
            get(result)
    get(running)


def test_abort_by_msg_id(client):
    view = client[1]
    running = view.apply_async(time.sleep, 1)
    queued = view.apply_async(time.sleep, 30)
    client.abort(queued.msg_ids, targets=1, block=True)
    with pytest.raises(error.TaskAborted):
        get(queued)
    get(running)


def test_clear_empties_the_namespace(client):
    view = client[:]
    view.push({"h": 1}, block=True)
    client.clear(targets=[0, 1], block=True)
    assert client[2:]["h"] == [1] * (N - 2)
    for engine in (0, 1):
        with pytest.raises(error.RemoteError, match="NameError"):
            client[engine].pull("h", block=True)


def test_a_signal_interrupts_what_runs(client):
    import warnings

    result = client[:].apply_async(time.sleep, 300)
    wait_until(lambda: all(status["tasks"] or status["queue"]
                           for key, status in client.queue_status().items() if key != "unassigned"), "the requests")
    # They may be in an engine's queue for a moment before they run.
    time.sleep(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client.send_signal(signal.SIGINT, block=True)
    with pytest.raises(error.CompositeError) as failed:
        get(result)
    assert {ename for ename, *_ in failed.value.elist} == {"KeyboardInterrupt"}
    assert client[:].apply_sync(lambda: 1) == [1] * N


# ---- queries


def test_queue_status_counts(client):
    before = client.queue_status(verbose=False)
    blocker = client[0].apply_async(time.sleep, 1.5)
    queued = client[0].apply_async(lambda: None)
    status = wait_until(
        lambda: (status := client.queue_status(0)) and status["queue"] == 2 and status, "two requests in the queue"
    )
    assert status["completed"] >= before[0]["completed"]
    assert set(client.queue_status(0, verbose=True)["queue"]) == set(blocker.msg_ids + queued.msg_ids)
    get(queued)
    wait_until(lambda: client.queue_status(0)["queue"] == 0, "an empty queue")
    assert client.queue_status()["unassigned"] == 0


def test_another_client_gets_the_result(client, cluster):
    result = client[:].apply_async(lambda: "kept")
    get(result)
    other = cluster.client(N)
    again = other.get_result(result.msg_ids, block=True)
    assert again.get(timeout=GENEROUS) == ["kept"] * N
    assert [meta["engine_id"] for meta in again.metadata] == client.ids


def test_another_client_waits_for_the_result(client, cluster):
    result = client.load_balanced_view().apply_async(lambda: __import__("time").sleep(1) or "late")
    other = cluster.client(N)
    wait_until(lambda: result.msg_ids[0] in other.hub_history(), "the record")
    again = other.get_result(result.msg_ids[0], block=False, owner=False)
    assert not again.ready()
    assert get(again) == "late"


def test_result_status(client):
    result = client[0].apply_async(time.sleep, 1)
    msg_id = result.msg_ids[0]
    wait_until(lambda: msg_id in client.hub_history(), "the record")
    assert client.result_status(msg_id)["pending"] == [msg_id]
    get(result)
    wait_until(lambda: msg_id in client.result_status(msg_id)["completed"], "a completed result")


def test_history_is_in_order_of_submission(client):
    results = [client.load_balanced_view().apply_async(lambda: None) for _ in range(5)]
    sent = [msg_id for result in results for msg_id in result.msg_ids]
    for result in results:
        get(result)
    wait_until(lambda: client.hub_history()[-5:] == sent, "the history")


def test_db_query(client):
    result = client[1].apply_async(lambda: print("recorded") or 5)
    get(result)
    result.wait_for_output(GENEROUS)
    msg_id = result.msg_ids[0]
    (record,) = wait_until(
        lambda: client.db_query({"msg_id": msg_id, "completed": {"$ne": None}, "stdout": {"$ne": ""}}), "the record"
    )
    assert record["queue"] == "mux"
    assert record["stdout"] == "recorded\n"
    assert record["submitted"] <= record["started"] <= record["completed"]
    assert record["engine_uuid"] == client._engines[1]
    (record,) = client.db_query({"msg_id": msg_id}, keys=["engine_uuid"])
    assert set(record) == {"msg_id", "engine_uuid"}
    (record,) = client.db_query({"msg_id": msg_id}, keys=["result_buffers"])
    assert record["result_buffers"]
    assert client.db_query({"msg_id": {"$in": []}}) == []
    newest = client.db_query({"submitted": {"$gte": result.submitted}}, keys=["msg_id"])
    assert msg_id in [record["msg_id"] for record in newest]
    with pytest.raises(error.RemoteError):
        client.db_query({"msg_id": {"$nonsense": 1}})


def test_resubmit_runs_again(client):
    result = client.load_balanced_view().apply_async(lambda: __import__("random").random())
    first = get(result)
    wait_until(lambda: client.db_query({"msg_id": result.msg_ids[0], "completed": {"$ne": None}}), "the record")
    again = client.resubmit(result.msg_ids)
    assert again.msg_ids != result.msg_ids
    assert get(again) not in (first, [first])
    (record,) = client.db_query({"msg_id": result.msg_ids[0]}, keys=["resubmitted"])
    assert record["resubmitted"] == again.msg_ids[0]


def test_purge_results_forgets(client, cluster):
    result = client[0].apply_async(lambda: 1)
    get(result)
    msg_id = result.msg_ids[0]
    wait_until(lambda: client.db_query({"msg_id": msg_id, "completed": {"$ne": None}}), "the record")
    client.purge_results(result)
    assert client.db_query({"msg_id": msg_id}) == []
    with pytest.raises((error.RemoteError, KeyError)):
        cluster.client().get_result(msg_id, block=True)
    client.purge_everything()
    assert client.hub_history() == []


def test_a_reply_of_a_query_that_cannot_be_is_an_error(client):
    with pytest.raises((error.RemoteError, IndexError, KeyError)):
        client.queue_status(10_000)


# ---- engines come and go; each of these has a cluster of its own


def test_wait_for_engines_sees_those_that_come(place):
    place.controller()
    client = place.client()
    assert client.ids == []
    with pytest.raises(TimeoutError):
        client.wait_for_engines(1, timeout=0.2, interactive=False)
    place.engines(2)
    client.wait_for_engines(2, timeout=GENEROUS, interactive=False)
    assert client.ids == [0, 1]
    place.engines(1)
    client.wait_for_engines(3, timeout=GENEROUS, interactive=False)
    assert client[:].apply_sync(lambda: 1) == [1] * 3


def test_tasks_wait_for_an_engine(place):
    place.controller()
    client = place.client()
    # The client itself refuses a load-balanced request when it knows no engine.
    place.engines(1)
    client.wait_for_engines(1, timeout=GENEROUS, interactive=False)
    view = client.load_balanced_view()
    results = [view.apply_async(lambda i: i, i) for i in range(100)]
    assert [get(result) for result in results] == list(range(100))


def test_one_engine_is_shut_down(place):
    place.controller()
    engines = place.engines(2)
    client = place.client(2)
    client.shutdown(targets=[0], block=True)
    wait_until(lambda: client.ids == [1], "the engine's end")
    assert client[:].apply_sync(lambda: "left") == ["left"]
    assert engines.is_running()


@pytest.mark.parametrize("database", ["--nodb", "--dictdb"])
def test_shutdown_of_the_hub_ends_everything(place, database):
    controller = place.controller(database)
    engines = place.engines(2)
    client = place.client(2)
    assert client[:].apply_sync(lambda: 1) == [1, 1]
    client.shutdown(hub=True, block=True)
    assert controller.wait() == 0
    assert engines.wait() == 0
    assert not place.client_file().exists()
    assert sorted(running_engines(engines)) == [0, 1]


def test_nodb_says_how_to_keep_results(place):
    controller = place.controller()
    controller.wait_for("NoDB")
    place.engines(1)
    client = place.client(1)
    result = client[0].apply_async(lambda: 1)
    assert get(result) == 1
    with pytest.raises(error.RemoteError, match="NoDB"):
        client.db_query({})
    with pytest.raises(error.RemoteError, match="NoDB"):
        client.resubmit(result.msg_ids)


@pytest.mark.parametrize("scheme", ["leastload", "lru", "plainrandom", "weighted", "twobin", "pure"])
def test_every_scheme_gets_the_work_done(place, scheme):
    place.controller(f"--scheme={scheme}", "--hwm=2")
    place.engines(2)
    client = place.client(2)
    assert client.load_balanced_view().map_sync(lambda x: x + 1, range(50), chunksize=1) == list(range(1, 51))
