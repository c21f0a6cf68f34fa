"""The task database under a real cluster: what survives the controller's death, and what users see of faults."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from ipyparallel import Dependency, error
from ports import closed_port
from programs import GENEROUS, wait_until

# How often the controller is killed in one test; many more in the long run.
KILLS = int(os.environ.get("IPCLUSTER_TEST_KILLS", "5"))

# The exit code of what ends without the database having everything.
RECORDS_LOST = 14


def get(result):
    return result.get(timeout=GENEROUS)


# ---- a controller that is killed


class Promises:
    """What a client was told before the controller died."""

    def __init__(self):
        self.values = {}
        self.stored = set()

    def note(self, lines):
        for line in lines:
            match line.split():
                case ["accepted", msg_id, value]:
                    self.values[msg_id] = int(value)
                case ["stored", msg_id]:
                    self.stored.add(msg_id)

    def check_stored(self, client):
        """Every result that was stored is there at once."""
        status = client.result_status(list(self.stored), status_only=True)
        assert set(status["completed"]) == self.stored

    def check_all(self, client, msg_ids):
        """Every request that was accepted has its result, sooner or later."""
        msg_ids = sorted(msg_ids)
        results = client.get_result(msg_ids, block=False, owner=False)
        assert get(results) == [self.values[msg_id] for msg_id in msg_ids]


def kill_and_restore(place, how, kills, chance):
    """Kills the controller at random moments, and checks after each restart that every promise is kept."""
    controller = place.controller(*how)
    place.engines(2)
    promises, finished, value = Promises(), set(), 0
    script = Path(__file__).with_name("submits_until_killed.py")
    for _ in range(kills):
        submitter = place.start([sys.executable, script, place.client_file(), value, chance.randrange(1 << 30)])
        submitter.wait_for("^stored")
        time.sleep(chance.uniform(0, 1.5))
        controller.kill()
        submitter.kill()
        promises.note(submitter.lines)
        value += 1_000_000

        controller = place.controller(*how)
        client = place.client(2)
        promises.check_stored(client)
        new = set(promises.values) - finished
        assert new, submitter.output
        promises.check_all(client, new)
        finished |= new
        client.close()
    client = place.client(2)
    promises.check_all(client, promises.values)
    # Also what was submitted so late that the client was told nothing of it.
    wait_until(lambda: not client.db_query({"completed": None}, keys=["msg_id"]), "the end of every request")
    print(f"{len(promises.values)} requests were accepted, {len(promises.stored)} results stored")


@pytest.mark.timeout(60 + 30 * KILLS)
def test_kills_at_random_moments_lose_nothing(place, chance):
    kill_and_restore(place, ["--sqlitedb", "--restore"], KILLS, chance)


def test_a_kill_loses_nothing_with_mongodb(place, chance, mongodb):
    kill_and_restore(place, [*mongodb.arguments, "--restore"], 2, chance)


def test_requests_for_an_engine_wait_for_it_after_a_restart(place):
    how = ["--sqlitedb", "--restore", "--ping=250"]
    controller = place.controller(*how)
    engines = place.engines(2)
    client = place.client(2)
    engines.send_signal(signal.SIGSTOP)
    try:
        results = [client[n].apply_async(lambda n: n, n) for n in (0, 1)]
        ids = [result.msg_ids[0] for result in results]
        wait_until(lambda: set(ids) <= set(client.hub_history()), "the records")
        controller.kill()
        place.controller(*how)
        other = place.client()
        assert set(other.result_status(ids, status_only=True)["pending"]) == set(ids)
    finally:
        engines.send_signal(signal.SIGCONT)
    other.wait_for_engines(2, timeout=GENEROUS, interactive=False)
    assert other.ids == [0, 1]
    assert get(other.get_result(ids, block=False, owner=False)) == [0, 1]


def work_until_told(folder, name):
    """Says that it runs, and goes on when it may."""
    import os
    import time

    with open(f"{folder}/{name}", "a") as runs:
        runs.write("ran ")
    while not os.path.exists(f"{folder}/may go on"):
        time.sleep(0.02)
    return name


# Engines need not import this file.
work_until_told.__module__ = "__main__"


@pytest.mark.parametrize("end", ["while it is away", "when it is back"])
def test_what_engines_are_at_work_on_is_not_run_again_after_a_restart(place, tmp_path, end):
    how = ["--sqlitedb", "--restore", "--ping=250"]
    controller = place.controller(*how)
    engines = place.engines(2)
    client = place.client(2)
    names = ["direct", "behind it", "task"]
    results = [client[0].apply_async(work_until_told, str(tmp_path), name) for name in names[:2]]
    results.append(client.load_balanced_view(targets=1).apply_async(work_until_told, str(tmp_path), names[2]))
    ids = [result.msg_ids[0] for result in results]

    def are_recorded():
        records = client.db_query({"msg_id": {"$in": ids}}, keys=["engine_uuid"])
        return len(records) == 3 and all(record["engine_uuid"] for record in records)

    wait_until(are_recorded, "the records")
    wait_until(lambda: all((tmp_path / name).exists() for name in ("direct", "task")), "the work")
    controller.kill()
    for engine in (0, 1):
        engines.wait_for(f"engine {engine}: the connection to the controller is lost")
    go_on = tmp_path / "may go on"
    if end == "while it is away":
        go_on.touch()
        wait_until((tmp_path / "behind it").exists, "the work")
    place.controller(*how)
    other = place.client(2)
    go_on.touch()
    assert get(other.get_result(ids, block=False, owner=False)) == names
    assert [(tmp_path / name).read_text() for name in names] == ["ran "] * 3


def outcome(view, **flags):
    """What becomes of a task that depends on others: the engine that it ran on, or the error."""
    with view.temp_flags(**flags):
        result = view.apply_async(lambda: None)
    try:
        get(result)
    except error.RemoteError as failed:
        return failed.ename
    return result.engine_id


@pytest.mark.parametrize("database", ["sqlitedb", "mongodb"])
def test_tasks_may_depend_on_those_of_a_former_controller(request, place, database):
    arguments = request.getfixturevalue("mongodb").arguments if database == "mongodb" else ["--sqlitedb"]
    how = [*arguments, "--restore", "--ping=250"]
    controller = place.controller(*how)
    place.engines(2)
    client = place.client(2)
    view = client.load_balanced_view()
    good, bad, direct = view.apply_async(lambda: 1), view.apply_async(lambda: 1 / 0), client[0].apply_async(lambda: 1)
    for result in (good, bad, direct):
        result.wait(GENEROUS)
    ids = good.msg_ids + bad.msg_ids + direct.msg_ids
    wait_until(lambda: set(client.result_status(ids, status_only=True)["completed"]) == set(ids), "the records")
    good_one, bad_one, direct_one = ids

    def outcomes(client):
        view = client.load_balanced_view()
        return [
            outcome(view, after=[good_one]) in (0, 1),
            outcome(view, follow=[good_one]),
            outcome(view, after=[bad_one]),
            outcome(view, after=Dependency([bad_one], success=False, failure=True)) in (0, 1),
            outcome(view, after=[direct_one]),
            outcome(view, after=["nobody"]),
            outcome(view, after=[good_one, "nobody"]),
        ]

    expected = outcomes(client)
    assert expected == [
        True,
        good.engine_id,
        "ImpossibleDependency",
        True,
        "InvalidDependency",
        "InvalidDependency",
        "InvalidDependency",
    ]
    controller.kill()
    place.controller(*how)
    other = place.client(2)
    assert outcomes(other) == expected
    # What depends on one that is being looked up comes behind it.
    view = other.load_balanced_view()
    with view.temp_flags(after=[good_one]):
        first = view.apply_async(lambda: "first")
    with view.temp_flags(after=first):
        second = view.apply_async(lambda: "second")
    assert (get(first), get(second)) == ("first", "second")


def test_what_cannot_be_taken_up_again_fails(place):
    """A broadcast, and a request for an engine that does not come back."""
    how = ["--sqlitedb", "--restore", "--ping=250", "--IPController.registration_timeout=2"]
    controller = place.controller(*how)
    engines = place.engines(1)
    client = place.client(1)
    engines.send_signal(signal.SIGSTOP)
    try:
        direct = client[0].apply_async(lambda: 1)
        broadcast = client.broadcast_view().apply_async(lambda: 1)
        ids = direct.msg_ids + broadcast.msg_ids
        wait_until(lambda: set(ids) <= set(client.hub_history()), "the records")
        controller.kill()
    finally:
        engines.kill()
    place.controller(*how)
    other = place.client()
    for msg_id in ids:
        with pytest.raises(error.RemoteError, match="EngineError"):
            get(other.get_result(msg_id, block=False, owner=False))


# ---- MongoDB


def test_a_server_that_goes_away_stops_no_work(place, mongodb):
    controller = place.controller(*mongodb.arguments)
    place.engines(1)
    client = place.client(1)
    view = client.load_balanced_view()
    before = view.apply_async(lambda: "before")
    assert get(before) == "before"
    wait_until(lambda: client.result_status(before.msg_ids)["completed"], "the record")
    mongodb.program.kill()
    results = [view.apply_async(lambda n: n, n) for n in range(20)]
    assert [get(result) for result in results] == list(range(20))
    controller.wait_for("cannot be stored now.*cannot be opened or reached")
    assert "database" in client.queue_status()
    mongodb.start()
    controller.wait_for("stored again; none were lost")
    ids = [result.msg_ids[0] for result in [before, *results]]
    assert client.hub_history() == ids
    stats = json.loads(db(place, "stats", "-o", "json"))
    assert stats["records"] == 21 and "task_records" in stats["place"]
    assert stats["longest_delay"] >= stats["delay"] > 0
    assert controller.stop() == 0
    controller.wait_for("has everything; it could not be written to 1 times.*cannot be opened or reached")


def test_what_a_server_that_is_gone_did_not_take_is_told_at_the_end(place, mongodb):
    controller = place.controller(*mongodb.arguments)
    place.engines(1)
    client = place.client(1)
    mongodb.program.kill()
    assert get(client.load_balanced_view().apply_async(lambda: 1)) == 1
    controller.wait_for("cannot be stored now")
    assert controller.stop() == RECORDS_LOST
    controller.wait_for(r"the task database does not have \d+ changes of records.*cannot be opened or reached")


def test_a_server_that_is_slow_slows_submission_and_loses_nothing(place, mongodb):
    controller = place.controller(*mongodb.arguments)
    place.engines(1)
    client = place.client(1)
    view = client.load_balanced_view()
    results = [view.apply_async(lambda n: n, 0)]
    get(results[0])
    mongodb.program.send_signal(signal.SIGSTOP)
    try:
        while "does not keep up" not in controller.output:
            results.append(view.apply_async(lambda n: n, len(results)))
            time.sleep(0.01)
        # These wait, in the scheduler or before it, and output with the engine; what is no request goes on.
        results += [view.apply_async(lambda n: print(n) or n, n) for n in range(len(results), len(results) + 50)]
        assert "unassigned" in client.queue_status()
    finally:
        mongodb.program.send_signal(signal.SIGCONT)
    assert [get(result) for result in results] == list(range(len(results)))
    ids = [result.msg_ids[0] for result in results]
    assert client.result_status(ids, status_only=True)["completed"] == sorted(ids)

    def output():
        records = client.db_query({"msg_id": {"$in": ids[-50:]}}, keys=["stdout"])
        return [record["stdout"] for record in records] == [f"{n}\n" for n in range(len(ids) - 50, len(ids))]

    wait_until(output, "all of the output")
    assert json.loads(db(place, "stats", "-o", "json"))["longest_delay"] >= 0.5


def test_limits_are_applied_to_mongodb_while_the_cluster_runs(place, mongodb):
    place.run("profile", "create", "default")
    settings = place.profile_dir() / "ipcluster.toml"
    settings.write_text("[controller.mongodb]\nmax_records = 20\n")
    newest_remain(place, *mongodb.arguments)


# ---- ipcluster db


def db(place, *arguments):
    code, output = place.run("db", *arguments, "--log-level=ERROR")
    assert code == 0, output
    return output


def work(place):
    """A few requests that are done, and one that failed."""
    client = place.client(1)
    view = client.load_balanced_view()
    with view.temp_flags(label="one"):
        one = view.apply_async(lambda: print("said") or 1)
    get(one)
    two = client[0].apply_async(lambda: 1 / 0)
    with pytest.raises(error.RemoteError):
        get(two)
    ids = one.msg_ids + two.msg_ids
    wait_until(lambda: len(client.db_query({"completed": {"$ne": None}}, keys=["msg_id"])) == 2, "the records")
    wait_until(lambda: client.db_query({"stdout": "said\n"}, keys=["msg_id"]), "the output")
    return ids


@pytest.mark.parametrize("database", ["--dictdb", "--sqlitedb"])
def test_records_of_a_running_cluster(place, database):
    place.controller(database)
    place.engines(1)
    one, two = work(place)
    table = db(place, "query", '{"queue": "task"}').splitlines()
    assert table[0].split() == ["MSG_ID", "QUEUE", "LABEL", "SUBMITTED", "COMPLETED", "ENGINE_UUID"]
    assert table[1].split()[:3] == [one, "task", "one"] and len(table) == 2
    lines = db(place, "query", "--keys=stdout,pyerr", "-o", "jsonl").splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first, second["msg_id"]) == ({"msg_id": one, "stdout": "said\n", "pyerr": None}, two)
    records = json.loads(db(place, "query", "--last=1", "-o", "json"))
    assert [record["msg_id"] for record in records] == [two]
    assert records[0]["result_content"]["ename"] == "ZeroDivisionError"
    rows = list(csv.reader(io.StringIO(db(place, "query", "--keys=msg_id,stdout", "-o", "csv"))))
    assert rows == [["msg_id", "stdout"], [one, "said\n"], [two, ""]]
    assert "said" in db(place, "show", one)
    code, output = place.run("db", "show", one[:-2])
    assert code == 1 and "2 records begin with" in output, output
    assert json.loads(db(place, "show", two, "-o", "json"))["queue"] == "mux"
    stats = json.loads(db(place, "stats", "-o", "json"))
    assert (stats["records"], stats["unfinished"], stats["lost"]) == (2, 0, 0)

    assert db(place, "purge", "--older-than=1d") == "0 records dropped"
    assert db(place, "purge", "--all", "--dry-run") == "2 records would be dropped"
    assert db(place, "purge", one) == "1 record dropped"
    assert json.loads(db(place, "query", "--keys=msg_id", "-o", "json")) == [{"msg_id": two}]
    code, output = place.run("db", "purge", one, two)
    assert code == 1 and "is not finished, does not match, or has no record" in output
    assert db(place, "query", "-o", "json") == "[]"


def test_records_of_a_stopped_cluster(place, tmp_path):
    controller = place.controller("--sqlitedb")
    engines = place.engines(1)
    one, two = work(place)
    engines.stop()
    controller.stop()
    ids = ["query", "--keys=msg_id", "-o", "json"]
    assert json.loads(db(place, *ids)) == [{"msg_id": one}, {"msg_id": two}]
    assert json.loads(db(place, "stats", "-o", "json"))["records"] == 2
    assert db(place, "purge", "--query", '{"queue": "mux"}') == "1 record dropped"
    file = place.profile_dir() / "tasks.db"
    copy = tmp_path / "copy.db"
    copy.write_bytes(file.read_bytes())
    assert json.loads(db(place, *ids, f"--file={copy}", "--profile=nowhere")) == [{"msg_id": one}]
    code, output = place.run("db", "query", f"--file={copy}", "--table=other")
    assert code == 1 and "other" in output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["query"], 12, "no cluster of profile"),
        (["query", '{"complete": null}'], 2, "records have msg_id, header"),
        (["query", '{"completed": {"$later": 1}}'], 2, "Unsupported operator"),
        (["purge", '--query={"complete": null}'], 2, "records have msg_id, header"),
        (["query", "{completed: null}"], 2, "no JSON"),
        (["query", "--keys=complete"], 2, "no field"),
        (["query", "--keys=buffers"], 2, "bytes"),
        (["query", "--file=/nowhere/tasks.db"], 1, "there is no /nowhere"),
        (["query", "--file=/bin/sh"], 1, "not a task database"),
        (["query", "--file=/bin"], 1, "is a folder"),
        (["query", '{"submitted": {"$gt": "yesterday"}}'], 2, "is none: write it as"),
        (["purge"], 2, "say what to drop"),
        (["purge", "--older-than=long"], 2, "no age"),
        (["show"], 2, "MSG_ID"),
    ],
)
def test_what_cannot_be_asked(place, arguments, code, said):
    place.run("profile", "create", "default")
    ended, output = place.run("db", *arguments)
    assert ended == code and said in output, output


def test_queries_that_are_wrong_are_told_in_the_original_s_classes(place):
    place.controller("--sqlitedb")
    for query, said in (('{"nonsense": 1}', "KeyError"), ('{"label": {"$odd": 1}}', "KeyError"), ("[]", "AttributeError")):
        code, output = place.run("db", "query", query)
        assert code == 2 and said in output, output
    assert place.run("db", "show", "nobody")[0] == 1


def test_without_a_database_it_is_said_how_to_have_one(place):
    place.controller("--nodb")
    code, output = place.run("db", "query")
    assert code == 1 and "Start the Controller with a DB backend" in output


# ---- faults


@pytest.fixture
def disk(tmp_path):
    """A disk of 8 MB, which can be filled and made read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def failing_disk(tmp_path):
    """A disk, and what makes it refuse to be written to from now on."""
    folder, image = tmp_path / "failing", tmp_path / "image"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(24 << 20)
    for command in (["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, folder]):
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("only root can mount a disk that fails")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,abort", folder], check=True)
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk):
    """Leaves nothing free; returns the file that takes the room."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return ballast


def test_a_full_disk_stops_no_work_and_is_shown_until_it_heals(place, disk):
    controller = place.controller("--sqlitedb", f"--SQLiteDB.location={disk}")
    place.engines(2)
    client = place.client(2)
    view = client.load_balanced_view()
    before = view.apply_async(lambda: "before")
    assert get(before) == "before"
    assert "database" not in client.queue_status()
    wait_until(lambda: client.result_status(before.msg_ids)["completed"], "the record")
    ballast = fill(disk)
    results = [view.apply_async(lambda n: bytes(100_000), n) for n in range(30)]
    for result in results:
        assert len(get(result)) == 100_000
    controller.wait_for("cannot be stored now.*the disk is full")
    fault = wait_until(lambda: client.queue_status().get("database"), "the fault in the figures")
    assert "the disk is full" in fault["error"] and fault["waiting"] > 0 and fault["lost"] == 0
    with pytest.raises(error.RemoteError, match="the disk is full"):
        client.db_query({"msg_id": before.msg_ids[0]})
    assert [get(view.apply_async(lambda: "still works"))] == ["still works"]
    # Those who look are told how much waits, why, and what to do.
    stats = json.loads(db(place, "stats", "-o", "json"))
    assert stats["waiting"] > 0 and stats["waiting_bytes"] > 100_000 and stats["records"] is None
    assert "the disk is full" in stats["fault"]["error"] and "free some of the disk" in stats["fault"]["remedy"]
    assert re.search(r"fault +.*the disk is full.*; free some of the disk", db(place, "stats"))
    code, status = place.run("status")
    assert code == 0 and "refused" not in status, status
    assert re.search(r"changes of \d+ records wait in memory \(.*\); FAULT since .*the disk is full.*free some", status), status

    ballast.unlink()
    controller.wait_for("stored again; none were lost")
    wait_until(lambda: "database" not in client.queue_status(), "figures without a fault")
    ids = [result.msg_ids[0] for result in results]
    again = place.client(2).get_result(ids, block=False, owner=False)
    assert [len(value) for value in get(again)] == [100_000] * 30


def test_what_a_full_disk_did_not_take_is_told_at_the_end(place, disk):
    controller = place.controller("--sqlitedb", f"--SQLiteDB.location={disk}")
    place.engines(1)
    client = place.client(1)
    fill(disk)
    assert len(get(client.load_balanced_view().apply_async(lambda: bytes(200_000)))) == 200_000
    controller.wait_for("cannot be stored now")
    assert controller.stop() == RECORDS_LOST
    controller.wait_for(r"the task database does not have \d+ changes of records.*the disk is full")


def test_a_disk_that_fails_stops_no_work_and_is_told_at_the_end(place, failing_disk):
    folder, fail = failing_disk
    controller = place.controller("--sqlitedb", f"--SQLiteDB.location={folder}")
    place.engines(1)
    client = place.client(1)
    view = client.load_balanced_view()
    before = view.apply_async(lambda: "before")
    assert get(before) == "before"
    wait_until(lambda: client.result_status(before.msg_ids)["completed"], "the record")
    fail()
    assert get(view.apply_async(lambda: "after")) == "after"
    controller.wait_for("cannot be stored now.*has become read-only")
    assert get(view.apply_async(lambda: "still works")) == "still works"
    assert "has become read-only" in client.queue_status()["database"]["error"]
    assert controller.stop() == RECORDS_LOST
    controller.wait_for(r"the task database does not have 2 changes of records.*has become read-only")


def test_the_stop_of_a_cluster_says_what_its_database_does_not_have(place, disk):
    code, output = place.run("start", "-n", "1", "--daemonize", "--", "--sqlitedb", f"--SQLiteDB.location={disk}")
    assert code == 0, output
    client = place.client(1)
    fill(disk)
    assert len(get(client.load_balanced_view().apply_async(lambda: bytes(200_000)))) == 200_000
    wait_until(lambda: client.queue_status().get("database"), "the fault")
    code, output = place.run("stop", "-o", "json")
    assert code == RECORDS_LOST and "the task database does not have" in output and "the disk is full" in output, output
    (document,) = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert document["clusters"][0]["outcome"] == "records-lost"


def test_a_cluster_in_the_foreground_says_so_by_its_exit_code(place, disk):
    cluster = place.ipcluster("start", "-n", "1", "--sqlitedb", f"--SQLiteDB.location={disk}")
    cluster.wait_for("the cluster is up")
    client = place.client(1)
    fill(disk)
    assert len(get(client.load_balanced_view().apply_async(lambda: bytes(200_000)))) == 200_000
    wait_until(lambda: client.queue_status().get("database"), "the fault")
    # Its log is at its terminal: whoever stops it hears it all the same.
    code, output = place.run("stop")
    assert code == RECORDS_LOST and "the disk is full" in output and "does not have everything" in output, output
    assert cluster.wait() == RECORDS_LOST and "the disk is full" in cluster.output


def test_what_is_on_storage_that_is_only_read_can_be_read(place, disk):
    place.run("profile", "create", "default")
    location = f"--SQLiteDB.location={disk}"
    controller = place.controller("--sqlitedb", location)
    place.engines(1)
    client = place.client(1)
    results = [client.load_balanced_view().apply_async(abs, n) for n in range(3)]
    assert [get(result) for result in results] == [0, 1, 2]
    ids = [result.msg_ids[0] for result in results]
    client.close()
    assert controller.stop() == 0
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    file = disk / "tasks.db"
    assert json.loads(db(place, "stats", "-o", "json", f"--file={file}"))["records"] == 3
    assert [json.loads(line)["msg_id"] for line in db(place, "query", "-o", "jsonl", f"--file={file}").splitlines()] == ids
    assert ids[1] in db(place, "show", ids[1][:-1] + ids[1][-1], f"--file={file}")
    assert json.loads(db(place, "stats", "-o", "json", location))["records"] == 3
    code, output = place.run("db", "purge", "--all", f"--file={file}")
    assert code == 1 and "cannot be written to" in output


def test_what_a_killed_controller_left_on_storage_that_is_only_read_is_named(place, disk):
    controller = place.controller("--sqlitedb", f"--SQLiteDB.location={disk}")
    place.engines(1)
    client = place.client(1)
    result = client.load_balanced_view().apply_async(abs, 1)
    assert get(result) == 1
    wait_until(lambda: client.result_status(result.msg_ids)["completed"], "the record")
    client.close()
    controller.kill()
    (disk / "tasks.db-shm").unlink()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    code, output = place.run("db", "stats", f"--file={disk}/tasks.db")
    assert code == 1 and f"still in {disk}/tasks.db-wal" in output and "copy both files" in output, output


def test_a_disk_without_room_to_read_is_called_full(place, disk):
    controller = place.controller("--sqlitedb", f"--SQLiteDB.location={disk}")
    assert controller.stop() == 0
    # What SQLite puts beside the file when it reads it has no room.
    fill(disk)
    code, output = place.run("db", "stats", f"--file={disk}/tasks.db")
    assert code == 1 and "the disk is full" in output, output


def test_what_was_answered_is_in_the_file_after_a_stop(place):
    controller = place.controller("--sqlitedb")
    place.engines(2)
    client = place.client(2)
    results = client.load_balanced_view().map_async(lambda n: n, range(1000), chunksize=1)
    assert len(get(results)) == 1000
    assert controller.stop() == 0
    assert "task database" not in controller.output
    with contextlib.closing(sqlite3.connect(place.profile_dir() / "tasks.db")) as file:
        (count,) = file.execute('SELECT count(*) FROM "ipython-tasks" WHERE completed IS NOT NULL').fetchone()
    assert count == 1000


def test_a_locked_database_is_waited_for(place):
    controller = place.controller("--sqlitedb")
    place.engines(1)
    client = place.client(1)
    view = client.load_balanced_view()
    other = sqlite3.connect(place.profile_dir() / "tasks.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    result = view.apply_async(lambda: "done")
    assert get(result) == "done"
    controller.wait_for("cannot be stored now.*in use by another program")
    assert get(view.apply_async(lambda: "too")) == "too"
    other.execute("ROLLBACK")
    controller.wait_for("stored again; none were lost")
    assert client.result_status(result.msg_ids)["completed"] == result.msg_ids
    # At the end, it is waited for as well, and said that it is.
    other.execute("BEGIN IMMEDIATE")
    assert get(view.apply_async(lambda: "last")) == "last"
    controller.wait_for("cannot be stored now.*in use by another program", after=len(controller.lines))
    assert controller.stop() == RECORDS_LOST
    controller.wait_for("still being written to.*the changes of 1 records wait")
    controller.wait_for("does not have 1 changes of records.*in use.*it could not be written to 1 times before")


def test_a_database_that_cannot_be_had_is_named_at_the_start(place, disk):
    file = disk / "tasks.db"

    def refused(said):
        code, output = place.run("controller", "--sqlitedb", f"--SQLiteDB.location={disk}")
        assert code == 1 and said in output and str(file) in output, output
        assert not place.client_file().exists()

    file.write_bytes(b"this is no database at all, though it is long enough to be one" * 100)
    refused("not a task database, or a damaged one")
    file.unlink()
    place.controller("--sqlitedb", f"--SQLiteDB.location={disk}").stop()
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + b"\xa5" * (len(whole) - 100))
    refused("not a task database, or a damaged one")
    file.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute('UPDATE "ipcluster-tables" SET version = 99')
        other.commit()
    refused("made by another version")
    file.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused("in use by another program")
    file.unlink()
    fill(disk)
    refused("the disk is full")
    (disk / "ballast").unlink()
    file.write_bytes(whole)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refused("cannot be written to")
    code, output = place.run("controller", "--sqlitedb", "--SQLiteDB.location=/nowhere")
    assert code == 1 and "cannot be opened" in output


def test_mongodb_that_is_not_there_is_told_at_the_start(place):
    with closed_port() as port:
        code, output = place.run("controller", "--mongodb", f"--MongoDB.connection_args=['127.0.0.1', {port}]")
    assert code == 1 and "cannot be opened or reached" in output, output


# ---- large buffers


def peak_memory(program):
    """The most that a process has ever had in memory, in bytes."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


SIZE = 100_000_000


def test_a_large_result_is_stored_without_a_second_copy(place):
    controller = place.controller("--sqlitedb")
    place.engines(1)
    client = place.client(1)
    assert get(client[0].apply_async(lambda: "small")) == "small"
    before = peak_memory(controller)
    result = client.load_balanced_view().apply_async(lambda n: bytes(n), SIZE)
    assert len(get(result)) == SIZE
    wait_until(lambda: client.result_status(result.msg_ids)["completed"], "the record")
    grown = peak_memory(controller) - before
    assert SIZE <= grown < 1.6 * SIZE, f"{grown / 1e6:.0f} MB for a result of {SIZE / 1e6:.0f} MB"
    again = place.client(1).get_result(result.msg_ids[0], block=False, owner=False)
    assert get(again) == bytes(SIZE)


def test_what_exceeds_a_set_size_is_not_kept_and_the_record_says_so(place):
    place.run("profile", "create", "default")
    settings = place.profile_dir() / "ipcluster.toml"
    settings.write_text('[controller.sqlite]\nbuffer_limit = "1 MB"\n')
    place.controller("--sqlitedb")
    place.engines(1)
    client = place.client(1)
    result = client.load_balanced_view().apply_async(lambda n: bytes(n), 2_000_000)
    assert len(get(result)) == 2_000_000
    wait_until(lambda: client.result_status(result.msg_ids)["completed"], "the record")
    (record,) = client.db_query({"msg_id": result.msg_ids[0]})
    assert record["result_metadata"]["buffers_dropped"] >= 2_000_000
    again = place.client(1).get_result(result.msg_ids[0], block=False, owner=False)
    with pytest.raises(error.RemoteError, match="was not kept"):
        get(again)


def test_limits_are_applied_while_the_cluster_runs(place):
    place.run("profile", "create", "default")
    settings = place.profile_dir() / "ipcluster.toml"
    settings.write_text("[controller.sqlite]\nmax_records = 20\n")
    newest_remain(place, "--sqlitedb")


def newest_remain(place, *database):
    """Of 50 records 20 are kept."""
    place.controller(*database)
    place.engines(1)
    client = place.client(1)
    view = client.load_balanced_view()
    results = [view.apply_async(lambda: None) for _ in range(50)]
    for result in results:
        get(result)
    newest = [result.msg_ids[0] for result in results[-20:]]
    wait_until(lambda: client.hub_history() == newest, "the newest records alone")


# ---- queries of the stock client


@pytest.mark.filterwarnings("ignore:Interpreting naive datetime")
@pytest.mark.parametrize("database", ["--dictdb", "--sqlitedb"])
def test_dates_with_and_without_zones(place, database):
    place.controller(database)
    place.engines(1)
    client = place.client(1)
    result = client.load_balanced_view().apply_async(lambda: 1)
    get(result)
    ids = result.msg_ids
    wait_until(lambda: client.result_status(ids)["completed"], "the record")
    hour = timedelta(hours=1)
    other_zone = timezone(timedelta(hours=-9, minutes=-30))
    for now in (datetime.now(), datetime.now(timezone.utc), datetime.now(other_zone)):
        for query, found in (
            ({"submitted": {"$gte": now - hour}}, ids),
            ({"submitted": {"$ge": now - hour, "$le": now + hour}}, ids),
            ({"completed": {"$lt": now - hour}}, []),
            ({"completed": {"$gt": now - hour, "$ne": None}, "queue": "task"}, ids),
            ({"$or": [{"started": now}, {"$not": {"started": {"$lt": now - hour}}}]}, ids),
        ):
            assert [record["msg_id"] for record in client.db_query(query, keys=["msg_id"])] == found, query
