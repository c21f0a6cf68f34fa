"""What becomes of engines whose kernels die, eat memory, or lose their controller; and what sets them apart."""

import os
import re
import signal

import pytest
from ipyparallel import error
from programs import GENEROUS, running_engines, wait_until

FAILED = 1

HOWS = pytest.mark.parametrize("how", [[], ["--spawn"]], ids=["forked", "spawned"])


def settings(place, text):
    place.profile_dir().mkdir()
    (place.profile_dir() / "ipcluster.toml").write_text(text)


def die(status):
    import os

    os._exit(status)


def wait_for_another(client, ids, uuid):
    """Until engine 0 is there again, under another uuid."""
    wait_until(lambda: client.ids == ids and client._engines[0] != uuid, "another kernel")


# ---- deaths


@HOWS
def test_a_dead_kernel_is_followed_by_another_with_its_id(place, how):
    place.controller()
    engines = place.engines(2, "--restart=on-failure", *how)
    client = place.client(2)
    uuid = client._engines[0]
    client[0].push({"x": 1}, block=True)
    with pytest.raises(error.RemoteError, match="EngineError.*exit status 3"):
        client[0].apply_async(die, 3).get(GENEROUS)
    wait_for_another(client, [0, 1], uuid)
    assert client[0].apply_sync(lambda: "x" in globals()) is False
    assert re.search("engine 0 has ended: .*exit status 3", engines.output)
    assert re.search(r"engine 0 is started again in \d+ ms", engines.output)


@pytest.mark.parametrize("policy, comes", [("never", False), ("on-failure", False), ("always", True)])
def test_an_end_with_status_0_is_a_failure_for_some(place, policy, comes):
    place.controller()
    engines = place.engines(2, f"--restart={policy}")
    client = place.client(2)
    uuid = client._engines[0]
    with pytest.raises(error.RemoteError, match="EngineError"):
        client[0].apply_async(die, 0).get(GENEROUS)
    if comes:
        wait_for_another(client, [0, 1], uuid)
    else:
        wait_until(lambda: client.ids == [1], "the engine's end")
        assert "is started again" not in engines.output


def test_one_that_dies_again_and_again_is_given_up(place):
    settings(place, "[engine]\nrestart_limit = 3\n")
    place.controller()
    code, output = place.run("engine", "--restart=on-failure", "--c=import os; os._exit(3)")
    assert code == FAILED
    waits = [int(ms) for ms in re.findall(r"is started again in (\d+) ms", output)]
    assert len(waits) == 3 and waits == sorted(waits) and waits[0] < waits[2], "it waits longer each time"
    assert "has ended 3 times within a minute: it is not started again" in output


def test_an_unknown_policy_is_refused(place):
    place.controller()
    code, output = place.run("engine", "--restart=sometimes")
    assert code == 2
    assert "sometimes" in output and "on-failure" in output


# ---- memory


def eat(megabytes):
    global eaten
    eaten = bytearray(b"x" * (megabytes << 20))
    while megabytes > 500:
        pass


@HOWS
def test_a_kernel_over_the_limit_is_replaced_and_its_task_says_why(place, how):
    place.controller()
    place.engines(2, "--memory-limit=400MiB", *how)
    client = place.client(2)
    uuid = client._engines[0]
    assert client[0].apply_async(eat, 10).get(GENEROUS) is None
    with pytest.raises(error.RemoteError, match="EngineError.*more than the limit of 400.0 MiB"):
        client[0].apply_async(eat, 600).get(GENEROUS)
    wait_for_another(client, [0, 1], uuid)
    assert client[0].apply_async(eat, 10).get(GENEROUS) is None


def test_much_memory_is_told_in_the_log(place):
    settings(place, '[engine]\nmemory_warn = "200 MiB"\n')
    place.controller()
    engines = place.engines(1)
    client = place.client(1)
    client[0].apply_async(eat, 300).get(GENEROUS)
    engines.wait_for("WARNING .*engine 0: its kernel uses .* of memory, more than 200.0 MiB")
    assert client[0].apply_async(eat, 1).get(GENEROUS) is None


# ---- what sets engines apart


@HOWS
def test_each_has_its_own_environment(place, how):
    settings(place, '[engine.env]\nCUDA_VISIBLE_DEVICES = "{rank}"\nOF = "{rank} of {n}"\n')
    place.controller()
    place.engines(3, *how)
    seen = place.client(3)[:].apply_sync(lambda: (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OF"]))
    assert seen == [(str(rank), f"{rank} of 3") for rank in range(3)]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no process")
@HOWS
def test_each_has_its_own_processors(place, how):
    available = os.sched_getaffinity(0)
    if len(available) < 2:
        pytest.skip("there is one processor only")
    place.controller()
    place.engines(2, "--pin", *how)
    first, second = place.client(2)[:].apply_sync(os.sched_getaffinity, 0)
    assert first and second and not first & second and first | second <= available


# ---- a controller that goes and comes


@HOWS
def test_namespaces_outlive_the_controller(place, how):
    first = place.controller("--reuse", "--ping=200")
    engines = place.engines(2, *how)
    before = place.client(2)
    before[:].scatter("x", [10, 11], block=True)
    uuids = dict(before._engines)
    first.kill()
    place.controller("--reuse", "--ping=200")
    engines.wait_for("engine 0: registered again")
    after = place.client(2)
    assert after._engines == uuids
    assert after[:].pull("x", block=True) == [[10], [11]]
    assert len(running_engines(engines)) == 2


def test_engines_end_when_no_controller_comes_back(place):
    controller = place.controller("--ping=100")
    engines = place.engines(2, "--IPEngine.max_heartbeat_misses=3")
    place.client(2)
    controller.kill()
    assert engines.wait() == FAILED
    assert "no heartbeat of the controller for too long" in engines.output


def test_an_engine_that_was_taken_for_dead_comes_back(place):
    """It was stopped for longer than the controller waits, and its connections are there as before."""
    controller = place.controller("--ping=200", "--HeartMonitor.max_heartmonitor_misses=2")
    engines = place.engines(1)
    client = place.client(1)
    engines.send_signal(signal.SIGSTOP)
    try:
        controller.wait_for(r"engine 0 \(.*\) left: it missed")
        wait_until(lambda: client.ids == [], "the news")
    finally:
        engines.send_signal(signal.SIGCONT)
    client.wait_for_engines(1, timeout=GENEROUS, interactive=False)
    assert client.ids == [0]
    assert client[0].apply_async(os.getpid).get(GENEROUS) > 0
    assert client.load_balanced_view().apply_async(abs, -1).get(GENEROUS) == 1
