"""Clusters whose number of engines follows the queue."""

import itertools
import json
import os
import time

import pytest
from cluster_fixtures import PATIENCE, clusters, wait_until  # noqa: F401

QUICK = ("--idle-timeout=1", "--daemonize")


@pytest.fixture
def quick(clusters):
    """Tasks wait for a moment only before engines are started for them."""
    clusters.ok("profile", "create", "default")
    (clusters.profile_dir / "ipcluster.toml").write_text("[cluster]\nscale_delay = 0.2\n")
    return clusters


def hold(path, started=None):
    """Returns when the file is there, and says who waited. A file in the folder `started` tells that it has begun."""
    import os
    import time

    if started is not None:
        open(os.path.join(started, str(os.getpid())), "w").close()
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getpid()


def grows_and_shrinks(client, folder, most, left=0):
    """Tasks bring engines up to the limit; then one that is at work stays, and answers, however many others go. So many of
    the first ones stay with it."""
    gate, other, started = folder / "gate", folder / "other-gate", folder / "started"
    started.mkdir()
    view = client.load_balanced_view()
    tasks = [view.apply_async(hold, str(gate), str(started)) for _ in range(most)]
    # Each has one then, and nothing waits that could come behind what follows.
    wait_until(lambda: len(list(started.iterdir())) == most, "all engines at work")
    wait_until(lambda: len(client.ids) == most, "all engines")
    *others, last = client.ids
    at_work = client[last].apply_async(hold, str(other))
    gate.touch()
    for task in tasks:
        task.get(PATIENCE)
    wait_until(lambda: client.ids == [*others[:left], last], "the end of idle ones")
    # As long as it would take for their end to harm it.
    end = time.monotonic() + 2
    wait_until(lambda: time.monotonic() > end, "some seconds")
    assert last in client.ids and not at_work.ready()
    other.touch()
    at_work.get(PATIENCE)


def test_engines_come_for_tasks_and_go_without_work(quick, tmp_path):
    quick.ok("start", "--min=1", "--max=3", *QUICK)
    gate = tmp_path / "gate"
    with quick.client() as client:
        assert client.ids == [0]
        view = client.load_balanced_view()
        tasks = [view.apply_async(hold, str(gate)) for _ in range(12)]
        wait_until(lambda: len(client.ids) == 3, "three engines")
        status = json.loads(quick.ok("status", "-o", "json"))
        sets = {engine["set"] for engine in status["engines"]}
        assert len(sets) == 2, "those of the start, and those that came"
        gate.touch()
        assert len({task.get(PATIENCE) for task in tasks}) == 3
        wait_until(lambda: len(client.ids) == 1, "the end of the idle ones")
        # It goes on to work, and to grow.
        gate.unlink()
        tasks = [view.apply_async(hold, str(gate)) for _ in range(12)]
        wait_until(lambda: len(client.ids) == 3, "three engines again")
        gate.touch()
        for task in tasks:
            task.get(PATIENCE)
    quick.ok("stop")
    quick.assert_nothing_left()


def test_engines_with_work_stay_however_long_it_takes(quick, tmp_path):
    quick.ok("start", "--min=0", "--max=2", "-n", "2", *QUICK)
    gate = tmp_path / "gate"
    with quick.client() as client:
        running = client[0].apply_async(hold, str(gate))
        wait_until(lambda: client.ids == [0], "the idle one's end")
        # Many idle time-outs.
        end = time.monotonic() + 3
        wait_until(lambda: time.monotonic() > end, "some seconds")
        assert client.ids == [0] and not running.ready()
        gate.touch()
        running.get(PATIENCE)
        wait_until(lambda: client.ids == [], "the other's end")
    quick.ok("stop")
    quick.assert_nothing_left()


def test_no_task_is_lost_while_engines_come_and_go(quick):
    quick.ok("start", "--min=1", "--max=3", "--idle-timeout=0.3", "--daemonize")
    with quick.client() as client:
        view = client.load_balanced_view()
        seen = set()
        deadline = time.monotonic() + PATIENCE
        for round in itertools.count():
            tasks = [view.apply_async(time.sleep, 0.1) for _ in range(12)]
            for task in tasks:
                task.get(PATIENCE)
            seen |= set(client.ids)
            if round >= 12 and len(seen) > 3:
                break
            assert time.monotonic() < deadline, "engines have come and gone"
            # About as long as engines may be idle, so that tasks meet some that are about to end.
            pause = time.monotonic() + 0.3 + round * 0.05
            wait_until(lambda pause=pause: time.monotonic() > pause, "a moment")
    quick.ok("stop")
    quick.assert_nothing_left()


def test_engines_that_die_are_replaced(quick):
    quick.ok("start", "--min=2", "--max=3", "--idle-timeout=0", "--daemonize")
    with quick.client() as client:
        for pid in set(client[:].apply_sync(os.getppid)):
            os.kill(quick.pid("engines"), 9)
            break
        wait_until(lambda: len(client.ids) == 2 and 0 not in client.ids, "others in their place")
        assert client[:].apply_sync(lambda: 7) == [7, 7]
    quick.ok("stop")
    quick.assert_nothing_left()


def test_it_can_start_without_engines(quick):
    quick.ok("start", "--min=0", "--max=1", *QUICK)
    status = json.loads(quick.ok("status", "-o", "json"))
    assert (status["state"], status["engines"]) == ("running", [])
    quick.ok("stop")
    quick.assert_nothing_left()


def test_elastic_engines_are_jobs_where_a_batch_system_runs_them(quick, tmp_path):
    from test_batch_systems import System

    system = System("pbs", quick, tmp_path / "batch")
    quick.ok("start", "--min=1", "--max=2", "--engines=pbs", "--ip=127.0.0.1", *QUICK)
    gate = tmp_path / "gate"
    with quick.client() as client:
        tasks = [client.load_balanced_view().apply_async(hold, str(gate)) for _ in range(4)]
        wait_until(lambda: len(client.ids) == 2, "another job's engine")
        assert len(system.calls("qsub")) == 2
        assert len(quick.run_file()["jobs"]) == 2
        gate.touch()
        for task in tasks:
            task.get(PATIENCE)
        wait_until(lambda: len(client.ids) == 1, "its end")
    quick.ok("stop")
    quick.assert_nothing_left()


@pytest.mark.parametrize(
    "args, says",
    [
        (("--min=3", "--max=2"), "--max has to be the larger"),
        (("--max=0",), "--max has to be the larger"),
        (("--min=2", "--max=4", "-n", "5"), "starts with --min (2) to --max (4) engines"),
        (("--min=x",), "--min"),
        (("--max=2", "--idle-timeout=-1"), "idle_timeout"),
    ],
)
def test_limits_that_cannot_be_are_refused(clusters, args, says):
    done = clusters.run("start", *args)
    assert done.returncode == 2 and says in done.stdout, done.stdout
    clusters.assert_nothing_left()
