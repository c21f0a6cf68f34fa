"""The fork server: many kernels of one import."""

import os
import signal
import sys

import engine
import marks
import pytest


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    server = engine.ForkServer(preload=["wave", "no_module_of_this_name"])
    yield server
    server.close()


def shown(kernel, expression):
    return kernel.execute(expression).shown


def test_warm(server):
    assert server.warm["mode"] == marks.EXPECTED_MODE
    assert server.warm["threads"] == []
    if sys.platform == "linux":
        assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1
    (error,) = server.errors
    assert error["ename"] == "ModuleNotFoundError" and error["rank"] is None


def test_kernels_are_apart(server):
    kernels = [server.fork(rank=r, env={"RANK_OF_TEST": r}) for r in range(3)]
    for rank, kernel in enumerate(kernels):
        kernel.execute(f"x = {rank}").ok
    for rank, kernel in enumerate(kernels):
        assert shown(kernel, "x") == str(rank)
        assert shown(kernel, "import os, sys; os.environ['RANK_OF_TEST'], 'wave' in sys.modules") == f"('{rank}', True)"
        assert shown(kernel, "os.getpid(), os.getpgid(0)") == f"({kernel.pid}, {kernel.pid})"
        kernel.execute("print('to the stream', flush=True); n = os.write(1, b'to the pipe')").ok
        assert kernel.read_stdout(11) == b"to the pipe"
    assert len({shown(k, "import random; random.random()") for k in kernels}) == 3


@marks.numpy
def test_numpy_seeds_differ():
    server = engine.ForkServer(preload=["numpy.random"])
    kernels = [server.fork(rank=r) for r in range(3)]
    assert len({shown(k, "import numpy; float(numpy.random.rand())") for k in kernels}) == 3
    server.close()


@marks.ipython
def test_identity_and_configuration_per_kernel(server):
    first = server.fork(rank=1, config={"InteractiveShell": {"cache_size": 55}})
    second = server.fork(rank=2)
    assert shown(first, "get_ipython().cache_size") == "55"
    assert shown(second, "get_ipython().cache_size") == "1000"
    assert first.execute("1 / 0").error["engine_info"]["engine_id"] == 1
    assert second.execute("1 / 0").error["engine_info"]["engine_uuid"] == "uuid-2"


def test_end_of_a_kernel_is_reported(server):
    kernel = server.fork(rank=5)
    kernel.link.send(engine.EXIT)
    assert server.exited()["status"] == {"code": 0}
    kernel = server.fork(rank=6)
    kernel.post("execute_request", {"code": "import os; os._exit(9)", "silent": True})
    exited = server.exited()
    assert (exited["rank"], exited["pid"], exited["status"]) == (6, kernel.pid, {"code": 9})
    assert exited["maxrss_kb"] > 1000
    kernel = server.fork(rank=7)
    server.link.send(engine.SIGNAL, {"pid": kernel.pid, "sig": int(signal.SIGKILL)})
    assert server.exited()["status"] == {"signal": 9}


def test_signal_reaches_only_kernels_of_the_server(server):
    server.link.send(engine.SIGNAL, {"pid": os.getpid(), "sig": int(signal.SIGTERM)})
    kernel = server.fork()
    msg_id = kernel.post("execute_request", {"code": "print('begun')\nwhile True: pass", "silent": False})
    kernel.until(lambda m: m.tag == engine.STREAM)
    server.link.send(engine.SIGNAL, {"pid": kernel.pid, "sig": int(signal.SIGINT), "group": True})
    assert kernel.finish(msg_id).error["ename"] == "KeyboardInterrupt"


def test_no_descriptors_leak(server):
    def descriptors(pid):
        links = sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
        # libffi keeps its own file open, for ctypes' callbacks.
        return [link for link in links if "libffi" not in link]

    if sys.platform != "linux":
        pytest.skip("needs /proc")
    first = server.fork()
    first.execute("pass").ok
    before = descriptors(server.process.pid)
    second = server.fork()
    second.execute("pass").ok
    assert descriptors(server.process.pid) == before
    # stdin, stdout, stderr, the link, and of a loop its poll object and its pair of sockets
    assert len(descriptors(second.pid)) <= 7


def test_many_at_once(server):
    kernels = [server.fork(rank=r) for r in range(8)]
    waiting = [k.post("execute_request", {"code": "6 * 7", "silent": False}) for k in kernels]
    for kernel, msg_id in zip(kernels, waiting):
        assert kernel.finish(msg_id).ok


def test_end_of_the_engine_ends_all(server):
    kernels = [server.fork(rank=r) for r in range(2)]
    for kernel in kernels:
        kernel.post("execute_request", {"code": "print('begun')\nwhile True: pass", "silent": False})
        kernel.until(lambda m: m.tag == engine.STREAM)
    server.close()
    assert all(k.link.ends() for k in kernels)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_death_of_the_server_ends_all(server):
    kernel = server.fork()
    kernel.post("execute_request", {"code": "print('begun')\nwhile True: pass", "silent": False})
    kernel.until(lambda m: m.tag == engine.STREAM)
    server.process.kill()
    assert kernel.link.ends()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_pinning(server):
    cpu = min(os.sched_getaffinity(0))
    kernel = server.fork(cpus=[cpu])
    assert shown(kernel, "import os; os.sched_getaffinity(0)") == f"{{{cpu}}}"
    assert server.fork(cpus=[100_000]).failed["ename"] == "OSError"
