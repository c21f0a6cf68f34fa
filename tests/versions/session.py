"""A client's day, run by the Python of any ipyparallel: CONNECTION_FILE of a cluster of two fresh engines.

Writes a line of JSON: {check: "works", "is not there" in this ipyparallel, or what went wrong}.
"""

import json
import os
import signal
import sys
import time
import traceback
import warnings

import ipyparallel as ipp
import numpy as np

N = 2
# Seconds in which each check has to be through. Only one that fails takes so long.
GENEROUS = 20
CHECKS = []


class NotThere(Exception):
    """This ipyparallel's client has no such thing."""


class TookTooLong(BaseException):
    """Not an Exception: no handler of the client's may take it for one of its own."""


def check(function):
    CHECKS.append(function)
    return function


def wait_until(condition):
    while not condition():
        time.sleep(0.01)


def raises(names, function, *arguments):
    """What the call raises: an exception of one of these names here or, in versions that leave it at that, there."""
    try:
        function(*arguments)
    except Exception as raised:
        name = getattr(raised, "ename", None) or type(raised).__name__
        assert name in names.split() or type(raised).__name__ in names.split(), repr(raised)
        return raised
    raise AssertionError("nothing was raised")


def needs(thing, name):
    if not hasattr(thing, name):
        raise NotThere
    return getattr(thing, name)


@check
def direct_views(client):
    view = client[:]
    assert view.apply_sync(lambda x: x + 1, 1) == [2] * N
    view.push({"a": 5}, block=True)
    assert view.pull("a", block=True) == [5] * N
    assert list(view.map_sync(abs, range(-10, 0))) == list(range(10, 0, -1))
    view.scatter("b", list(range(10)), block=True)
    assert list(view.gather("b", block=True)) == list(range(10))


@check
def load_balanced_views(client):
    view = client.load_balanced_view()
    assert list(view.map_sync(abs, range(-50, 0))) == list(range(50, 0, -1))
    unordered = view.map_async(abs, range(-20, 0), ordered=False, chunksize=3)
    assert sorted(unordered) == list(range(1, 21))


@check
def broadcasts(client):
    view = needs(client, "broadcast_view")()
    for coalescing in (False, True):
        view.is_coalescing = coalescing
        assert view.apply_sync(lambda: 3) == [3] * N


@check
def arrays(client):
    array = np.arange(1000000)
    assert np.array_equal(client[-1].apply_sync(lambda a: a * 2, array), array * 2)
    client[:].push({"array": array}, block=True)
    assert all(np.array_equal(array, one) for one in client[:].pull("array", block=True))


@check
def outputs(client):
    result = client[:].execute("print('seen')\n6 * 7", silent=False)
    result.get()
    result.wait_for_output(GENEROUS)
    assert result.stdout == ["seen\n"] * N
    wait_until(lambda: all(result.execute_result))
    assert [one["data"]["text/plain"] for one in result.execute_result] == ["42"] * N


@check
def errors(client):
    raised = raises("ZeroDivisionError", client[0].apply_sync, lambda: 1 / 0)
    assert raised.engine_info["engine_id"] == 0
    raised = raises("CompositeError", client[:].apply_sync, lambda: 1 / 0)
    assert len(raised.elist) == N


@check
def metadata(client):
    result = client[:].apply_async(os.getpid)
    pids = result.get()
    assert len(set(pids)) == N and [one["engine_id"] for one in result.metadata] == client.ids
    for one in result.metadata:
        assert one["submitted"] <= one["started"] <= one["completed"] <= one["received"]
    assert result.serial_time >= 0 and result.wall_time >= 0


@check
def dependencies(client):
    view = client.load_balanced_view()
    first = view.apply_async(os.getpid)
    with view.temp_flags(follow=first, after=first):
        assert view.apply_async(os.getpid).get() == first.get()
    failed = view.apply_async(lambda: 1 / 0)
    with view.temp_flags(after=failed):
        raises("ImpossibleDependency", view.apply_async(os.getpid).get)


@check
def functional_dependencies(client):
    engine = client[1].apply_sync(os.getpid)

    def here(pid):
        import os

        return os.getpid() == pid

    view = client.load_balanced_view()
    there = ipp.depend(here, engine)(os.getpid)
    assert [view.apply_async(there).get() for _ in range(5)] == [engine] * 5


@check
def retries(client):
    view = client.load_balanced_view()
    view.retries = 3

    def at_the_third(path):
        with open(path, "a") as file:
            file.write("x")
        with open(path) as file:
            assert len(file.read()) == 3
        return "done"

    path = os.path.join(os.environ["IPYTHONDIR"], "tries-%d" % os.getpid())
    assert view.apply_async(at_the_third, path).get() == "done"


@check
def timeouts(client):
    view = client.load_balanced_view()
    busy = [client[i].apply_async(time.sleep, 1.5) for i in client.ids]
    first = [view.apply_async(time.sleep, 1.5) for _ in client.ids]
    with view.temp_flags(timeout=0.2, after=first):
        raises("TaskTimeout", view.apply_async(os.getpid).get)
    for one in busy + first:
        one.get()


@check
def aborts(client):
    view = client[0]
    running = view.apply_async(time.sleep, 1)
    queued = view.apply_async(lambda: 1)
    wait_until(lambda: client.queue_status(0)["queue"] == 2)
    view.abort(queued, block=True)
    raises("TaskAborted", queued.get)
    running.get()
    assert view.apply_sync(lambda: 2) == 2


@check
def records(client):
    good = client[:].apply_async(lambda: 7)
    bad = client[:].apply_async(lambda: 1 / 0)
    client.wait([good, bad], timeout=GENEROUS)
    wait_until(lambda: not client.result_status(good.msg_ids + bad.msg_ids, status_only=True)["pending"])
    for msg_id in good.msg_ids + bad.msg_ids:
        (record,) = client.db_query({"msg_id": msg_id})
        assert record["submitted"] <= record["started"] <= record["completed"]
    assert set(good.msg_ids) <= set(client.hub_history())
    assert client.get_result(good.msg_ids, owner=False).get() == [7] * N
    client.purge_hub_results(good.msg_ids)
    assert client.db_query({"msg_id": {"$in": good.msg_ids}}, keys=["msg_id"]) == []


@check
def a_client_that_comes_later(client):
    result = client.load_balanced_view().apply_async(lambda: "kept")
    result.get()
    later = ipp.Client(sys.argv[1])
    try:
        wait_until(lambda: later.result_status(result.msg_ids, status_only=True)["completed"])
        found = later.get_result(result.msg_ids)
        assert found.get() in ("kept", ["kept"]), found.get()
    finally:
        later.close()


@check
def resubmission(client):
    first = client.load_balanced_view().apply_async(os.getpid)
    first.get()
    wait_until(lambda: client.result_status(first.msg_ids, status_only=True)["completed"])
    again = client.resubmit(first.msg_ids)
    again.get()
    assert set(again.msg_ids).isdisjoint(first.msg_ids)


@check
def queue_status(client):
    running = client[0].apply_async(time.sleep, 1)
    wait_until(lambda: client.queue_status(0)["queue"] == 1)
    assert running.msg_ids[0] in client.queue_status(verbose=True)[0]["queue"]
    before = client.queue_status(0)["completed"]
    running.get()
    wait_until(lambda: client.queue_status(0)["completed"] == before + 1)
    assert client.queue_status()["unassigned"] == 0


@check
def clearing(client):
    client[:].push({"gone": 1}, block=True)
    client.clear(block=True)
    raises("NameError", lambda: client[0].pull("gone", block=True))


@check
def interrupts(client):
    send_signal = needs(client, "send_signal")
    result = client[:].execute("import time; print('begun', flush=True)\ntime.sleep(600)")
    wait_until(lambda: all("begun" in text for text in result.stdout))
    send_signal(signal.SIGINT, block=True)
    raised = raises("CompositeError", result.get)
    assert {ename for ename, _, _, _ in (one[:4] for one in raised.elist)} == {"KeyboardInterrupt"}


@check
def a_dependency_that_no_engine_meets(client):
    nowhere = ipp.depend(lambda: False)(os.getpid)
    raises("ImpossibleDependency UnmetDependency", client.load_balanced_view().apply_async(nowhere).get)


@check
def an_engine_that_is_killed(client):
    pid = client[1].apply_sync(os.getpid)
    result = client[1].apply_async(time.sleep, 600)
    wait_until(lambda: client.queue_status(1)["queue"] == 1)
    os.kill(pid, signal.SIGKILL)
    raises("EngineError", result.get)
    wait_until(lambda: client.ids == [0])
    assert client.load_balanced_view().apply_sync(lambda: 1) == 1


@check
def an_engine_that_is_shut_down(client):
    client.shutdown(targets=[0], block=True)
    wait_until(lambda: client.ids == [])


@check
def a_hub_that_is_shut_down(client):
    client.shutdown(hub=True, block=True)


def took_too_long(*_):
    raise TookTooLong


def main():
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, took_too_long)
    signal.alarm(GENEROUS)
    client = ipp.Client(sys.argv[1])
    wait_until(lambda: len(client.ids) == N)
    found = {}
    for function in CHECKS:
        signal.alarm(GENEROUS)
        try:
            function(client)
            found[function.__name__] = "works"
        except NotThere:
            found[function.__name__] = "is not there"
        except (Exception, TookTooLong) as failure:
            traceback.print_exc()
            found[function.__name__] = "%s: %s" % (type(failure).__name__, str(failure)[:200])
        signal.alarm(0)
    print(json.dumps(found), flush=True)
    # A client whose sockets are stuck must not keep what was found.
    os._exit(0)


if __name__ == "__main__":
    main()
