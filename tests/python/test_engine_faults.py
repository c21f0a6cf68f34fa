"""User code at its worst: each request has its error reply, and the engine, its neighbour and the next request live on.

Functions that do harm import what they need themselves: they run on the engines.
"""

import os
import resource
import signal

import psutil
import pytest
from ipyparallel import error
from programs import GENEROUS, running_engines, wait_until


@pytest.fixture(scope="module", params=["forked", "spawned"])
def cluster(shared_place, request):
    """Two engines, and a client that waits for no answer for ever."""
    profile = request.param
    shared_place.profile_dir(profile).mkdir()
    shared_place.controller(profile=profile)
    how = ["--spawn"] if request.param == "spawned" else []
    engines = shared_place.engines(2, *how, profile=profile)
    return engines, shared_place.client(2, profile=profile)


@pytest.fixture
def view(cluster):
    """The first engine; checked afterwards, with its neighbour."""
    engines, client = cluster
    pids = client[:].apply_sync(os.getpid)
    yield client[0]
    client.abort(block=True)
    assert [result.get(GENEROUS) for result in [client[n].apply_async(os.getpid) for n in (0, 1)]] == pids
    result = client[0].execute("print(6 * 7)", silent=False)
    result.get(GENEROUS)
    result.wait_for_output(GENEROUS)
    assert result.stdout == "42\n"
    assert client.ids == [0, 1]
    assert sorted(running_engines(engines)) == [0, 1], "none was started again"


def fails(result, with_words):
    with pytest.raises(error.RemoteError, match=with_words) as failed:
        result.get(GENEROUS)
    assert failed.value.engine_info["engine_id"] == 0


class Unloadable:
    """A pickle that does not load."""

    def __reduce__(self):
        return int, ("no number",)


class LoadsNothing:
    def __reduce__(self):
        return __import__, ("no_such_module_anywhere",)


@pytest.mark.parametrize("bad, said", [(Unloadable(), "ValueError"), (LoadsNothing(), "ModuleNotFoundError")])
def test_arguments_that_do_not_load(view, bad, said):
    fails(view.apply_async(lambda x: x, [bad]), said)


def test_buffers_that_are_no_pickle_at_all(view):
    client = view.client
    future = client._send(
        client._mux_stream, "apply_request", buffers=[b"\0", b"no pickle", b"nor this"], ident=client._engines[0].encode(),
        track_outstanding=True,
    )  # fmt: skip
    assert isinstance(future.result(GENEROUS), error.RemoteError)


def lock():
    import threading

    return threading.Lock()


def generator():
    return (x for x in range(3))


def one_whose_reduce_raises():
    class Angry:
        def __reduce__(self):
            raise RuntimeError("will not be pickled")

    return [Angry()]


@pytest.mark.parametrize(
    "make, said", [(lock, "pickle"), (generator, "pickle"), (one_whose_reduce_raises, "will not be pickled")]
)
def test_results_that_do_not_pickle(view, make, said):
    fails(view.apply_async(make), said)


def recurse():
    def deeper(n):
        return deeper(n + 1)

    return deeper(0)


def recurse_in_a_repr():
    class Deep:
        def __repr__(self):
            return repr(self) + "!"

    raise ValueError(Deep())


def raise_base():
    raise BaseException("the base of all")


def raise_interrupt():
    raise KeyboardInterrupt("from within")


def leave():
    raise SystemExit(3)


def leave_generator():
    raise GeneratorExit


def raise_unspeakable():
    class Unspeakable(Exception):
        def __str__(self):
            raise RuntimeError("no words")

        __repr__ = __str__

    raise Unspeakable


def raise_odd_text():
    class Odd(Exception):
        def __str__(self):
            return "\udcff\0\x1b[31m"

    raise Odd


def raise_with_a_long_tail():
    raise ValueError("x" * 5_000_000)


def raise_in_a_circle():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


@pytest.mark.parametrize(
    "bad, said",
    [
        (recurse, "RecursionError"),
        (recurse_in_a_repr, "ValueError|RecursionError"),
        (raise_base, "BaseException"),
        (raise_interrupt, "KeyboardInterrupt"),
        (leave, "SystemExit"),
        (leave_generator, "GeneratorExit"),
        (raise_unspeakable, "no words"),
        (raise_odd_text, "Odd"),
        (raise_with_a_long_tail, "ValueError"),
        (raise_in_a_circle, "ValueError"),
    ],
)
def test_exceptions_of_all_kinds(view, bad, said):
    fails(view.apply_async(bad), said)


@pytest.mark.parametrize(
    "code, said",
    [
        ("def f(n): return f(n + 1)\nf(0)", "RecursionError"),
        ("raise BaseException('the base of all')", "BaseException"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class E(Exception):\n  def __str__(self): raise RuntimeError\n  __repr__ = __str__\nraise E", "E"),
        ("1 +", "SyntaxError"),
        ("\0", "SyntaxError|ValueError"),
        ("x = '\ud800'", "SyntaxError|UnicodeEncodeError|UnicodeError"),
    ],
)
def test_cells_that_fail(view, code, said):
    fails(view.execute(code.encode("utf-8", "replace").decode() if "\ud800" not in code else "'\\ud800'.encode()"), said)


def close_everything():
    import os
    import resource

    os.closerange(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return "closed"


def close_streams():
    import sys

    sys.stdout.close()
    sys.stderr = None
    return "closed"


def fork():
    import os

    if os.fork() == 0:
        # Comes back from the function in the child as well.
        return "child"
    return "parent"


def fork_and_fail():
    import os

    if os.fork() == 0:
        raise ValueError("in the child")
    return "parent"


def start_processes():
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


def change_signal_handlers():
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    return "changed"


def go_elsewhere():
    import os
    import tempfile

    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    return "gone"


def break_the_modules():
    import json
    import sys

    json.dumps = json.loads = None
    sys.path.clear()
    sys.stdin = sys.displayhook = None
    return "broken"


def lower_the_limits():
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (10, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return "lowered"


def change_the_recursion_limit():
    import sys

    sys.setrecursionlimit(60)
    return "shallow"


def leave_streams_that_raise():
    import sys

    class Broken:
        def __getattr__(self, name):
            raise SystemExit(name)

    sys.stdout = sys.stderr = Broken()
    return "left"


def remove_the_streams():
    import sys

    del sys.stdout, sys.stderr
    return "removed"


def close_the_event_loop():
    import asyncio

    asyncio.get_event_loop()._selector.close()
    return "closed"


def die_in_a_thread():
    import threading

    def fail():
        raise ValueError("in a thread")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    return "survived"


@pytest.mark.parametrize(
    "harm, value",
    [
        (close_streams, "closed"),
        (fork, "parent"),
        (fork_and_fail, "parent"),
        (start_processes, [1, 2]),
        (go_elsewhere, "gone"),
        (leave_streams_that_raise, "left"),
        (remove_the_streams, "removed"),
        (close_the_event_loop, "closed"),
        (die_in_a_thread, "survived"),
    ],
)
def test_harm_that_is_survived(view, harm, value):
    assert view.apply_async(harm).get(GENEROUS) == value


@pytest.mark.parametrize("how", [[], ["--spawn"]], ids=["forked", "spawned"])
@pytest.mark.parametrize(
    "harm", [close_everything, change_signal_handlers, lower_the_limits, change_the_recursion_limit]
)
def test_harm_that_stays(place, harm, how):
    """What it has done to its own process stays, but the engine goes on: it answers, and can be interrupted and ended."""
    place.controller()
    engines = place.engines(2, *how)
    client = place.client(2)
    client[0].apply_async(harm).get(GENEROUS)
    assert client[0].apply_async(lambda: 6 * 7).get(GENEROUS) == 42
    assert client[1].apply_async(lambda: 6 * 7).get(GENEROUS) == 42
    result = client[0].execute("print('begun', flush=True)\nwhile True: pass", silent=False)
    wait_until(lambda: "begun" in (result.stdout or ""), "the begin")
    client.send_signal(signal.SIGINT, targets=0, block=True)
    with pytest.raises(error.RemoteError, match="KeyboardInterrupt"):
        result.get(GENEROUS)
    assert client[0].apply_async(lambda: 1).get(GENEROUS) == 1
    assert sorted(running_engines(engines)) == [0, 1]


LATE = ["TimeoutError", "OSError(110, 'timed out')", "ValueError", "KeyboardInterrupt", "SystemExit", "BaseException"]


def leave_a_handler(of):
    import signal

    def handle(signum, frame):
        raise eval(of)

    signal.signal(signal.SIGALRM, handle)


@pytest.mark.parametrize("raised", LATE)
def test_an_alarm_that_comes_when_its_request_is_over(view, raised):
    pid = view.apply_async(os.getpid).get(GENEROUS)
    view.apply_async(leave_a_handler, raised).get(GENEROUS)
    for _ in range(3):
        os.kill(pid, signal.SIGALRM)
        assert view.apply_async(abs, -7).get(GENEROUS) == 7


def raise_alarms_all_the_time(of):
    import signal

    leave_a_handler(of)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)


def end_alarms():
    import signal

    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.mark.parametrize("raised", LATE)
def test_alarms_that_come_all_the_time(view, raised):
    """Some requests fail of them, and each has its answer."""
    results = [view.apply_async(raise_alarms_all_the_time, raised)]
    for _ in range(5):
        results += [view.apply_async(bytes, 3_000_000), view.apply_async(len, bytes(3_000_000))]
        results += [view.execute("print('x' * 100_000)", silent=False, block=False)]
    for result in results:
        result.wait(GENEROUS)
        assert result.ready()
    calm = False
    while not calm:
        result = view.apply_async(end_alarms)
        result.wait(GENEROUS)
        calm = result.successful()


def open_all_files():
    import os

    files = globals()["files"] = []
    try:
        while True:
            files.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return "opened"


def limit_the_size_of_files():
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return "limited"


def replace_what_large_payloads_need():
    import fcntl
    import mmap
    import os
    import struct
    import sys

    os.open = os.close = os.pwrite = os.memfd_create = fcntl.fcntl = mmap.mmap = None
    struct.pack = struct.Struct = struct.unpack_from = sys.modules["ctypes"] = None
    return "replaced"


@pytest.mark.parametrize("name", ["len", "isinstance", "getattr", "super", "type", "list", "range"])
@pytest.mark.parametrize("code", ["del builtins.{}", "builtins.{} = None"])
def test_builtins_that_are_taken_away(place, code, name):
    """Nothing works without them; but every request is answered, and the kernel lives."""
    place.controller()
    engines = place.engines(1)
    view = place.client(1)[0]
    for request in (
        view.execute("import builtins; " + code.format(name), silent=False, block=False),
        view.execute("print(1)", silent=False, block=False),
        view.apply_async(abs, -7),
        view.apply_async(abs, -7),
    ):
        request.wait(GENEROUS)
        assert request.ready()
        assert request.successful() or "EngineError" not in str(request.exception())
    assert running_engines(engines) == [0]


@pytest.mark.parametrize("how", [[], ["--spawn"]], ids=["forked", "spawned"])
@pytest.mark.parametrize("harm", [open_all_files, limit_the_size_of_files, replace_what_large_payloads_need])
def test_large_payloads_after_harm(place, harm, how):
    place.controller()
    few_files = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))  # noqa: E731
    engines = place.engines(1, *how, preexec_fn=few_files)
    view = place.client(1)[0]
    view.apply_async(harm).get(GENEROUS)
    payload = os.urandom(5_000_000)
    for _ in range(3):
        assert view.apply_async(lambda x: x, payload).get(GENEROUS) == payload
    assert running_engines(engines) == [0]


def many_arrays():
    import numpy

    return [numpy.full(2_500_000, number, dtype="u1") for number in range(35)]


def test_more_large_payloads_at_once_than_an_engine_may_have_open_files(place):
    place.controller()
    few_files = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))  # noqa: E731
    engines = place.engines(4, preexec_fn=few_files)
    client = place.client(4)
    for result in [client[n].apply_async(many_arrays) for n in range(4)]:
        arrays = result.get(GENEROUS)
        assert [array.min() == array.max() == number for number, array in enumerate(arrays)] == [True] * 35
    assert sorted(running_engines(engines)) == [0, 1, 2, 3]
    assert client[:].apply_async(abs, -7).get(GENEROUS) == [7] * 4


@pytest.mark.parametrize("how", [[], ["--spawn"]], ids=["forked", "spawned"])
def test_a_payload_that_there_is_no_memory_for(place, how):
    place.controller()
    engines = place.engines(1, *how)
    view = place.client(1)[0]
    for size in (5_000_000, 50_000_000):
        view.apply_async(limit_memory).get(GENEROUS)
        for _ in range(2):
            fails(view.apply_async(len, bytes(size)), "memory|Memory")
            fails(view.execute("len(large)", block=False), "NameError")
        view.apply_async(allow_memory).get(GENEROUS)
        assert view.apply_async(len, bytes(size)).get(GENEROUS) == size
    assert running_engines(engines) == [0]


def limit_memory():
    import resource

    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2_000_000, resource.getrlimit(resource.RLIMIT_AS)[1]))


def allow_memory():
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


@pytest.mark.parametrize("how", [[], ["--spawn"]], ids=["forked", "spawned"])
def test_kernels_have_the_limits_that_the_engines_were_started_with(place, how):
    place.controller()
    soft = 512
    place.engines(1, *how, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))  # fmt: skip
    assert place.client(1)[0].apply_sync(resource.getrlimit, resource.RLIMIT_NOFILE)[0] == soft


def test_a_function_that_never_returns_is_interrupted(view):
    result = view.apply_async(spin)
    wait_until(lambda: view.client.queue_status(0)["queue"] == 1, "the request")
    # It is told until it is heard: the request may not have reached the function yet.
    while not result.ready():
        view.client.send_signal(signal.SIGINT, targets=0, block=True)
        result.wait(0.2)
    fails(result, "KeyboardInterrupt")


def spin():
    while True:
        pass


@pytest.mark.parametrize("to", ["sys.stdout", "descriptor 1", "a subprocess"])
def test_stdout_that_is_filled(view, to):
    megabytes = 20

    code = {
        "sys.stdout": f"for _ in range({megabytes} << 4): print('x' * ((1 << 16) - 1))",
        "descriptor 1": f"import os\nfor _ in range({megabytes} << 4): os.write(1, b'x' * ((1 << 16) - 1) + b'\\n')",
        "a subprocess": f"import subprocess, sys; n = subprocess.call([sys.executable, '-c', "
        f"'for _ in range({megabytes} << 4): print(\"x\" * ((1 << 16) - 1))'])",
    }[to]
    result = view.execute(code, silent=False)
    result.get(GENEROUS)
    result.wait_for_output(GENEROUS)
    assert len(result.stdout) == megabytes << 20


def test_one_that_kills_its_own_process(place):
    """Its request fails with how it died, its neighbour does not notice, and another kernel comes."""
    place.controller()
    engines = place.engines(2, "--restart=on-failure")
    client = place.client(2)
    neighbour = client[1].apply_sync(os.getpid)
    first = client[0].apply_sync(os.getpid)
    with pytest.raises(error.RemoteError, match="EngineError.*SIGKILL"):
        client[0].apply_async(kill_myself).get(GENEROUS)
    wait_until(lambda: sorted(running_engines(engines)) == [0, 0, 1], "another kernel")
    wait_until(lambda: client.ids == [0, 1] and client.queue_status(), "the engine's return")
    assert not psutil.pid_exists(first)
    assert client[1].apply_sync(os.getpid) == neighbour
    assert client[0].apply_sync(os.getpid) != first


def kill_myself():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
