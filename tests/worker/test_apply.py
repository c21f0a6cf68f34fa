"""apply_request, in the mode that has it, and what only a running event loop gives."""

import errno
import json
import os
import signal

import engine
import marks
import pytest

pytestmark = marks.ipyparallel


def test_value_and_arguments(kernel):
    assert kernel.value(lambda a, b=1: (a, b), 2, b=[3]) == (2, [3])


def test_successful_reply_is_minimal(kernel):
    header = kernel.header("apply_request")
    kernel.link.send(engine.APPLY, header, {}, *engine.pack(lambda: 1))
    message = kernel.link.receive()
    assert message.tag == engine.REPLY
    assert message.frames[:3] == [header["msg_id"].encode(), b'{"status":"ok"}', b""]
    assert kernel.link.receive() == (engine.DONE, [header["msg_id"].encode()])


def test_error(kernel):
    def f():
        return 1 / 0

    result = kernel.apply(f)
    assert result.error["ename"] == "ZeroDivisionError"
    assert result.error["engine_info"] == {"engine_id": 3, "engine_uuid": "uuid-3", "method": "apply"}
    assert "division" in result.traceback
    assert result.metadata["status"] == "error" and result.metadata["dependencies_met"] is True
    assert "started" not in result.metadata, "the engine says when the request began"
    assert result.published("error")


def test_unmet_dependency(kernel):
    import ipyparallel as ipp

    @ipp.require("no_module_of_this_name")
    def f():
        return 1

    result = kernel.apply(f)
    assert result.error["ename"] == "UnmetDependency"
    assert result.metadata["dependencies_met"] is False


def test_reference_and_namespace(kernel):
    import ipyparallel as ipp

    kernel.execute("a_name = 11").ok
    assert kernel.value(lambda x: x + 1, ipp.Reference("a_name")) == 12
    assert kernel.value(lambda: a_name) == 11  # noqa: F821
    assert kernel.apply(lambda: 1, ipp.Reference("missing_name")).error["ename"] == "NameError"


def test_no_names_are_left_behind(kernel):
    names = "sorted(k for k in globals() if k.startswith('_m'))"
    before = kernel.execute(names).shown
    kernel.value(lambda: 1)
    assert kernel.execute(names).shown == before


def test_output_belongs_to_the_request(kernel):
    def f():
        import sys

        from IPython.display import display

        print("out")
        print("err", file=sys.stderr)
        display({"text/plain": "shown"}, raw=True)

    for _ in range(2):
        result = kernel.apply(f).ok
        assert result.streams() == "out\n" and result.streams("stderr") == "err\n"
        assert result.published("display_data")[0]["data"]["text/plain"] == "shown"
        assert all(m.frames[1] == b"" for m in result.iopub)


def test_parents_follow_from_apply_to_execute_and_back(kernel):
    def show():
        from IPython.display import display

        display(1)

    for _ in range(2):
        assert all(m.frames[1] == b"" for m in kernel.apply(show).iopub)
        assert all(m.frames[1] == b"" for m in kernel.execute("display(2)").iopub)


def test_get_parent_inside_apply(kernel):
    def parent():
        message = get_ipython().kernel.get_parent()  # noqa: F821
        return message["header"]["msg_id"], message["msg_type"], message["metadata"]

    kernel.execute("pass").ok
    for _ in range(2):
        msg_id = kernel.post_apply(parent)
        from ipyparallel.serialize import deserialize_object

        value = deserialize_object(kernel.finish(msg_id).ok.buffers)[0]
        assert value == (msg_id, "apply_request", {})


def test_late_output_names_its_own_request(kernel):
    """An asyncio task that an apply leaves behind prints as that apply, whatever runs meanwhile."""

    def leave_behind():
        import asyncio

        from IPython.display import display

        async def later():
            await event.wait()
            print("late")
            display({"text/plain": "late display"}, raw=True)

        global event, task
        event = asyncio.Event()
        task = asyncio.ensure_future(later())

    origin = kernel.post_apply(leave_behind)
    kernel.finish(origin).ok
    kernel.value(lambda: 1)
    kernel.execute("event.set()").ok
    message, seen = kernel.until(lambda m: m.tag == engine.IOPUB and m.frames[0] == b"display_data")
    if marks.version("ipykernel") >= (7,):
        # Older ones know one parent for all display data.
        assert json.loads(message.frames[1])["msg_id"] == origin
    (text,) = [m for m in seen if m.tag == engine.STREAM and m.frames[2] == b"late"]
    assert json.loads(text.frames[1])["msg_id"] == origin


def test_publish_data(kernel):
    def f():
        from ipyparallel.engine.datapub import publish_data

        publish_data({"a": 5})

    result = kernel.apply(f).ok
    (message,) = [m for m in result.iopub if m.frames[0] == b"data_message"]
    from ipyparallel.serialize import deserialize_object

    assert json.loads(message.frames[3]) == {"keys": ["a"]}
    assert deserialize_object(message.frames[4:])[0] == {"a": 5}


@pytest.mark.parametrize("buffers", [[], [b""], [b"x", b"y"], [b"\x80\x05N."]])
def test_requests_that_do_not_load(kernel, buffers):
    assert kernel.finish(kernel.post_apply_buffers(buffers)).error


def test_result_that_does_not_pickle(kernel):
    assert kernel.apply(lambda: (i for i in ())).error["ename"] in ("TypeError", "PicklingError")


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException"])
def test_base_exceptions(kernel, name):
    def f(name):
        import builtins

        raise getattr(builtins, name)("from user code")

    assert kernel.apply(f, name).error["ename"] == name


def test_exceptions_that_are_no_help(kernel):
    def f():
        class Odd(Exception):
            def __str__(self):
                raise RuntimeError("no text")

            __repr__ = __str__

        raise Odd

    # Of ipyparallel's own attempt to log the exception comes the RuntimeError.
    assert kernel.apply(f).error["ename"] in ("Odd", "RuntimeError")


def test_recursion(kernel):
    def f():
        def g():
            return g()

        return g()

    assert kernel.apply(f).error["ename"] == "RecursionError"


def test_interrupt(kernel):
    def f():
        print("begun")
        while True:
            pass

    msg_id = kernel.post_apply(f)
    kernel.until(lambda m: m.tag == engine.STREAM)
    os.kill(kernel.pid, signal.SIGINT)
    assert kernel.finish(msg_id).error["ename"] == "KeyboardInterrupt"


def test_the_traceback_of_an_interrupt_ends_at_the_user_s_line(kernel):
    def f():
        import os
        import signal

        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass

    error = kernel.apply(f).error
    assert error["ename"] == "KeyboardInterrupt"
    assert "ipcluster_kernel" not in "".join(error["traceback"])


def test_interrupts_at_any_moment(kernel):
    """One reply per request, whenever the signal comes."""
    outcomes = set()
    for n in range(300):
        msg_id = kernel.post_apply(lambda: sum(range(300)))
        if n % 3 == 0:
            os.kill(kernel.pid, signal.SIGINT)
        outcomes.add(kernel.finish(msg_id).reply["status"])
    assert "ok" in outcomes
    assert kernel.value(lambda: 5) == 5


def test_fork_that_comes_back(kernel):
    def f():
        import os

        return os.fork()

    pid = kernel.value(f)
    assert pid > 0
    assert kernel.value(lambda p: __import__("os").waitpid(p, 0)[1], pid) == 0


@marks.numpy
def test_arrays_both_ways(kernel):
    import numpy as np
    from ipyparallel.serialize import deserialize_object

    array = np.arange(13_000_000, dtype=float)
    result = kernel.apply(lambda a: a, array).ok
    back = deserialize_object(result.buffers)[0]
    assert np.array_equal(array, back)
    assert kernel.value(lambda a: (a.flags.writeable, a.flags.aligned), array) == (True, True)
    assert kernel.value(lambda a: (a.flags.writeable, a.sum()), np.ones(2000)) == (True, 2000.0)


@marks.numpy
def test_odd_arrays(kernel):
    import numpy as np

    for array in (
        np.zeros((0, 3)),
        np.arange(20_000).reshape(100, 200)[:, ::2],
        np.asfortranarray(np.ones((300, 300))),
    ):
        assert np.array_equal(kernel.value(lambda a: a, array), array)


def test_hundred_megabytes_both_ways(kernel):
    size = 100_000_000
    assert kernel.value(lambda b: len(b), b"x" * size) == size
    assert len(kernel.value(lambda n: b"y" * n, size)) == size


def sample():
    """The path of some memory of the engine's, for as long as the tests run."""
    fd = os.memfd_create("sample")
    os.write(fd, b"sample")
    return f"/proc/{os.getpid()}/fd/{fd}"


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")
def test_large_results_leave_in_memory_of_their_own(start):
    def results(sizes):
        return [b"%d" % number * size for number, size in enumerate(sizes)]

    def open_payloads():
        import contextlib
        import os

        found = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink("/proc/self/fd/" + fd))
        return [name for name in found if "payload" in name]

    kernel = start(shared_memory=sample())
    for sizes in ([3 << 20], [10, 5 << 20, 0, 3 << 20, 100_000, 2 << 20], [3 << 20] * 40):
        assert kernel.value(results, sizes) == results(sizes)
    assert kernel.link.in_memory > 0
    assert not kernel.link.descriptors
    # Nothing of it is left, and what is small goes as ever.
    assert kernel.value(open_payloads) == []
    passed = kernel.link.in_memory
    assert kernel.value(lambda: b"x" * 1_000_000) == b"x" * 1_000_000
    assert kernel.link.in_memory == passed


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")
def test_large_results_leave_as_bytes_where_there_are_no_descriptors_left(start):
    def use_up():
        import os
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        try:
            os.memfd_create("none")
        except OSError as error:
            return error.errno, b"x" * (5 << 20)

    kernel = start(shared_memory=sample())
    assert kernel.value(use_up) == (errno.EMFILE, b"x" * (5 << 20))
    assert kernel.link.in_memory == 0


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")
def test_large_results_leave_as_bytes_where_no_more_descriptors_can_be_passed_on(start):
    def pass_on():
        import array
        import os
        import resource
        import socket

        if os.getuid() == 0:
            # Who may do everything may do this, too.
            os.setuid(65534)
        ends = globals()["ends"] = socket.socketpair()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1] * 200))]
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        try:
            while True:
                ends[0].sendmsg([b"x"], rights)
        except OSError as error:
            return error.errno, b"x" * (5 << 20), 3, b"y" * (3 << 20)

    kernel = start(shared_memory=sample())
    for _ in range(2):
        assert kernel.value(pass_on) == (errno.ETOOMANYREFS, b"x" * (5 << 20), 3, b"y" * (3 << 20))
    assert kernel.link.in_memory == 0


@marks.numpy
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")
def test_buffers_in_memory_that_is_mapped(start):
    import numpy as np

    def change(array):
        array += 1
        return float(array.sum())

    kernel = start(shared_memory=sample())
    assert kernel.ready["maps"]
    array = np.zeros(1_000_000)
    buffers = [bytes(memoryview(buffer).cast("B")) for buffer in engine.pack(change, array)]
    (large,) = [number for number, buffer in enumerate(buffers) if len(buffer) == array.nbytes]
    memory = os.memfd_create("payload")
    os.pwrite(memory, buffers[large], 0)
    buffers[large] = b""

    def post(path, length=array.nbytes):
        header = kernel.header("apply_request")
        places = {"places": [[2 + large, path, length]]}
        kernel.link.send(engine.MAPPED, places, header, {}, *buffers)
        return kernel.finish(header["msg_id"])

    path = f"/proc/{os.getpid()}/fd/{memory}"
    for _ in range(2):
        # Changed in place, and for itself alone.
        assert engine.value_of(post(path).ok) == 1_000_000
    os.close(memory)
    assert post(path).error["ename"] == "FileNotFoundError"
    assert kernel.value(lambda: 5) == 5


def test_many_frames(kernel):
    """More frames than one system call takes."""
    value = [b"z" * 2000 for _ in range(900)] + [b"w" * 100_000] * 3
    assert kernel.value(lambda v: v, value) == value
    kernel.finish(kernel.post_apply_buffers([b"x" * 10] * 20_000)).error


def test_large_frames_arrive_in_any_pieces(kernel):
    header = kernel.header("apply_request")
    buffers = [bytes(b) for b in engine.pack(lambda a, b: (len(a), len(b)), b"x" * 200_001, b"y" * 70_000)]
    data = engine.encode(engine.APPLY, [json.dumps(header).encode(), b"{}", *buffers])
    kernel.link.sock.settimeout(engine.TIMEOUT)
    for start in range(0, len(data), 9973):
        kernel.link.sock.sendall(data[start : start + 9973])
    assert kernel.finish(header["msg_id"]).ok


def test_ensure_future_in_apply(kernel):
    def f():
        import asyncio

        global future
        future = asyncio.ensure_future(asyncio.sleep(0, "slept"))
        return asyncio.get_running_loop().is_running()

    assert kernel.value(f) is True
    kernel.execute("import asyncio; await asyncio.sleep(0.01)").ok
    assert kernel.execute("future.result()").shown == "'slept'"


def test_close_every_descriptor_in_apply(start):
    kernel = start()

    def f():
        import os
        import resource

        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    kernel.apply(f).ok
    assert kernel.value(lambda: 4) == 4
    kernel.execute("import asyncio; await asyncio.sleep(0.01)").ok
    assert kernel.execute("get_ipython().kernel.io_loop.asyncio_loop is asyncio.get_running_loop()").shown == "True"


def test_engine_identity(kernel):
    def f():
        kernel = get_ipython().kernel  # noqa: F821
        from ipykernel.kernelapp import IPKernelApp
        from ipyparallel.engine.app import IPEngine

        return (
            kernel.engine_id,
            kernel.ident,
            IPEngine.instance().kernel is kernel,
            IPKernelApp.instance().kernel is kernel,
        )

    assert kernel.value(f) == (3, "uuid-3", True, True)


def test_no_debugger_no_threads(kernel):
    def f():
        import sys
        import threading

        return [m for m in sys.modules if m.startswith(("debugpy", "pydevd"))], threading.active_count()

    assert kernel.value(f) == ([], 1)


def test_abort_is_the_engines(kernel):
    kernel.execute("1 / 0").error
    assert kernel.execute("1").ok
