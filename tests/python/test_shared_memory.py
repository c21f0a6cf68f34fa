"""Large payloads between processes of one machine: in memory that they have in common, and copied where they have none."""

import os
import signal
import sys

import numpy as np
import pytest
from ipyparallel import error, interactive
from programs import GENEROUS, children, wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs memfd_create")

LARGE = 1_500_000
"""Of numbers: 12 MB."""


def payloads(pid):
    """The shared memory that a process has mapped or open, by inode."""
    with open(f"/proc/{pid}/maps") as maps:
        found = {line.split()[4] for line in maps if "memfd:ipcluster" in line or "memfd:payload" in line}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            name = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        if name.startswith(("/memfd:ipcluster", "/memfd:payload")):
            found.add(str(os.stat(f"/proc/{pid}/fd/{fd}").st_ino))
    return found


@interactive
def add_to_it(number):
    array[:] += number  # noqa: F821
    return float(array[0]), float(array[-1])  # noqa: F821


def sum_of(array):
    return float(array.sum())


def twice(array):
    return array * 2


@pytest.mark.parametrize("pushes", ["direct", "broadcast"])
def test_what_is_pushed_is_where_the_controller_has_put_it(place, pushes):
    controller = place.controller()
    place.engines(2)
    client = place.client(2)
    view = client[:] if pushes == "direct" else client.broadcast_view(is_coalescing=True)
    before = payloads(controller.pid)
    array = np.arange(LARGE, dtype=float)
    view.push({"array": array}, block=True)
    pids = client[:].apply_sync(os.getpid)
    own = [payloads(pid) for pid in pids]
    assert all(own), own
    assert len(set.union(*own)) == (2 if pushes == "direct" else 1)
    # Each engine changes its own; what was sent stays as it was.
    expected = [(float(n), float(n + LARGE - 1)) for n in (1, 2)]
    assert [client[n].apply_sync(add_to_it, n + 1) for n in range(2)] == expected
    pulled = client[:].pull("array", block=True)
    assert [(part[0], part[-1]) for part in pulled] == expected
    assert np.array_equal(array, np.arange(LARGE))
    # The processes in between keep nothing of it.
    wait_until(lambda: payloads(controller.pid) <= before, "the controller lets go")
    client[:].execute("del array", block=True)
    wait_until(lambda: not any(map(payloads, pids)), "the kernels let go")


def test_large_tasks_and_results_of_all_kinds(place):
    place.controller()
    place.engines(2)
    client = place.client(2)
    balanced = client.load_balanced_view()
    arrays = [np.full(LARGE, n, dtype=float) for n in range(8)]
    assert list(balanced.map_sync(sum_of, arrays, chunksize=1)) == [float(n * LARGE) for n in range(8)]
    for array, doubled in zip(arrays, balanced.map_sync(twice, arrays, chunksize=3)):
        assert np.array_equal(array * 2, doubled)
        doubled += 1
    texts = balanced.map_sync(lambda n: ("x" * n, b"y" * n, [b"z" * n] * 3), [10, 3 << 20])
    assert [(len(a), len(b), [len(part) for part in c]) for a, b, c in texts] == [(n, n, [n] * 3) for n in (10, 3 << 20)]
    # Published beside the reply.
    code = "from ipyparallel.engine.datapub import publish_data\npublish_data({'a': b'p' * (5 << 20)})"
    shown = client[0].execute(code, block=False)
    shown.get(GENEROUS)
    wait_until(lambda: shown.data, "what was published")
    assert len(shown.data["a"]) == 5 << 20
    # What the engine reads itself.
    value = client[0].execute("'v' * (3 << 20)", silent=False)
    value.get(GENEROUS)
    value.wait_for_output(GENEROUS)
    assert len(value.execute_result["data"]["text/plain"]) == (3 << 20) + 2
    with pytest.raises(error.RemoteError) as failed:
        client[0].execute("raise ValueError('e' * (3 << 20))", silent=False).get(GENEROUS)
    assert len(failed.value.evalue) == 3 << 20


def test_a_kernel_that_dies_with_a_large_task_takes_nothing_along(place):
    controller = place.controller()
    place.engines(2)
    client = place.client(2)
    array = np.ones(LARGE)
    doomed = client[0].apply_async(lambda array: os.kill(os.getpid(), signal.SIGKILL), array)
    with pytest.raises(error.RemoteError, match="killed by SIGKILL"):
        doomed.get(GENEROUS)
    assert client[1].apply_sync(sum_of, array) == LARGE
    wait_until(lambda: not payloads(controller.pid), "the controller lets go")


def test_a_controller_with_a_database_keeps_what_it_stores(place):
    place.controller("--sqlitedb")
    place.engines(1)
    client = place.client(1)
    array = np.arange(LARGE, dtype=float)
    result = client[0].apply_async(twice, array)
    assert np.array_equal(result.get(GENEROUS), array * 2)
    client.results.clear()
    again = client.get_result(result.msg_ids, owner=False)
    assert np.array_equal(again.get(GENEROUS)[0], array * 2)
    resubmitted = client.resubmit(result.msg_ids)
    assert np.array_equal(resubmitted.get(GENEROUS)[0], array * 2)


def test_payloads_that_wait_count_as_memory_of_the_controller(place):
    folder = place.profile_dir()
    folder.mkdir(parents=True)
    (folder / "ipcluster.toml").write_text('[controller]\nmax_memory = "150 MiB"\n')
    controller = place.controller()
    place.engines(1)
    client = place.client(1)
    balanced = client.load_balanced_view()
    first = balanced.apply_async(lambda: __import__("threading").Event().wait())
    array = np.ones(LARGE)
    results = [balanced.apply_async(sum_of, array) for _ in range(40)]
    controller.wait_for("task: .* new requests wait with the clients until some have ended; max_memory")
    client.send_signal(signal.SIGINT, block=True)
    with pytest.raises(error.RemoteError, match="KeyboardInterrupt"):
        first.get(GENEROUS)
    assert [result.get(GENEROUS) for result in results] == [LARGE] * 40
    wait_until(lambda: not payloads(controller.pid), "the controller lets go")


@pytest.mark.parametrize("way", ["curve", "no key", "no descriptors"])
def test_it_is_copied_where_it_cannot_be_shared(place, way):
    arguments = {"curve": ["--enable-curve"], "no key": ["--Session.key="], "no descriptors": []}[way]
    few = {"preexec_fn": few_open_files} if way == "no descriptors" else {}
    controller = place.controller(*arguments, **few)
    place.engines(1)
    client = place.client(1)
    arrays = [np.full(LARGE, n, dtype=float) for n in range(20 if way == "no descriptors" else 2)]
    results = [client[0].apply_async(twice, array) for array in arrays]
    for array, result in zip(arrays, results):
        assert np.array_equal(result.get(GENEROUS), array * 2)
    if way != "no descriptors":
        assert not payloads(controller.pid)


def few_open_files():
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))


@pytest.mark.parametrize("short", ["engine", "controller"])
def test_more_payloads_are_kept_than_there_are_descriptors(place, short):
    few = {"preexec_fn": few_open_files}
    place.controller("--dictdb", **(few if short == "controller" else {}))
    place.engines(1, **(few if short == "engine" else {}))
    client = place.client(1)
    first = client[0].apply_async(lambda: __import__("threading").Event().wait())
    arrays = [np.full(300_000, n, dtype=float) for n in range(150)]
    results = [client[0].apply_async(twice, array) for array in arrays]
    client.send_signal(signal.SIGINT, block=True)
    with pytest.raises(error.RemoteError, match="KeyboardInterrupt"):
        first.get(GENEROUS)
    for array, result in zip(arrays, results):
        assert np.array_equal(result.get(GENEROUS), array * 2)


def test_engines_find_a_controller_that_is_started_again(place):
    controller = place.controller("--reuse", "--ping=200")
    engines = place.engines(1)
    client = place.client(1)
    array = np.ones(LARGE)
    client[0].push({"array": array}, block=True)
    (pid,) = client[:].apply_sync(os.getpid)
    client.close()
    controller.kill()
    controller.wait()
    place.controller("--reuse", "--ping=200")
    client = place.client(1)
    assert client[0].apply_sync(add_to_it, 1) == (2, 2)
    client[0].push({"other": array}, block=True)
    assert len(payloads(pid)) == 2
    assert children(engines.pid)
