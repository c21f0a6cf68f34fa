"""Which database keeps the records, for how long, and what clients can do with them."""

import contextlib
import sqlite3

import pytest
from ipyparallel import error
from programs import GENEROUS, wait_until


def get(result):
    return result.get(timeout=GENEROUS)


def stored(client, *results):
    """Waits for results, and until the hub has them; their msg_ids."""
    for result in results:
        result.wait(GENEROUS)
    ids = [msg_id for result in results for msg_id in result.msg_ids]
    wait_until(lambda: set(client.result_status(ids, status_only=True)["completed"]) == set(ids), "the records")
    return ids


# ---- which database


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("using NoDB", ["NoDB", "nodb", "ipyparallel.controller.dictdb.NoDB"]),
        ("using DictDB", ["DictDB", "DICTDB", "ipyparallel.controller.dictdb.DictDB"]),
        ("using SQLiteDB", ["SQLiteDB", "sqlitedb", "IPython.parallel.controller.sqlitedb.SQLiteDB"]),
    ],
)
def test_a_database_has_the_names_of_the_documents(place, said, names):
    for name in names:
        controller = place.controller(f"--IPController.db_class={name}")
        controller.wait_for(said)
        controller.stop()
    settings = place.profile_dir() / "ipcluster.toml"
    settings.write_text(f'[controller]\ndb = "{names[0]}"\n')
    place.controller().wait_for(said)


def test_mongodb_has_the_names_of_the_documents(place, mongodb):
    for name in ("MongoDB", "mongodb", "ipyparallel.controller.mongodb.MongoDB"):
        controller = place.controller(f"--IPController.db_class={name}", *mongodb.arguments[1:])
        controller.wait_for("using MongoDB")
        controller.stop()


# ---- how long


def one_record(place, *arguments):
    """Runs a controller for one request; the history after it."""
    controller = place.controller("--sqlitedb", *arguments)
    engines = place.engines(1)
    client = place.client(1)
    stored(client, client[0].apply_async(lambda: 1))
    history = client.hub_history()
    client.close()
    engines.stop()
    controller.stop()
    return history


def test_a_table_that_is_named_has_the_tasks_of_earlier_runs(place):
    first = one_record(place)
    assert one_record(place)[:-1] == first
    assert len(one_record(place, "--SQLiteDB.table=other")) == 1
    for _ in range(2):
        assert len(one_record(place, "--SQLiteDB.table=")) == 1, "a fresh table"
    with contextlib.closing(sqlite3.connect(place.profile_dir() / "tasks.db")) as file:
        counts = [
            file.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
            for (table,) in file.execute('SELECT name FROM "ipcluster-tables"').fetchall()
        ]
    assert sorted(counts) == [1, 1, 1, 2]


def test_memory_keeps_the_newest(place):
    place.controller("--dictdb", "--DictDB.record_limit=10", "--DictDB.cull_fraction=0.5")
    place.engines(1)
    client = place.client(1)
    results = [client[0].apply_async(lambda: None) for _ in range(14)]
    for result in results:
        get(result)
    ids = [result.msg_ids[0] for result in results]
    wait_until(lambda: client.hub_history() == ids[5:], "the newest: five went with the eleventh")


# ---- what clients do


@pytest.fixture(params=["dictdb", "sqlitedb", "mongodb"])
def client(request, place):
    database = request.param
    arguments = request.getfixturevalue("mongodb").arguments if database == "mongodb" else [f"--{database}"]
    place.controller(*arguments)
    place.engines(2)
    return place.client(2)


def test_another_client_gets_every_result(client, place):
    applied, executed = client[0].apply_async(lambda: 7), client[1].execute("6 * 7", silent=False)
    failed = client.load_balanced_view().apply_async(lambda: 1 / 0)
    ids = stored(client, applied, executed, failed)
    other = place.client(2)
    assert get(other.get_result(ids[0], owner=False)) == 7
    assert get(other.get_result(ids[1], owner=False)).execute_result["data"]["text/plain"] == "42"
    with pytest.raises(error.RemoteError, match="ZeroDivisionError"):
        get(other.get_result(ids[2], owner=False))
    with pytest.raises(error.RemoteError, match="ZeroDivisionError"):
        place.client(2).result_status(ids[2], status_only=False)


def test_resubmission(client, place):
    view = client.load_balanced_view()
    with view.temp_flags(label="often"):
        first = view.apply_async(lambda: "done")
    slow = client[0].apply_async(lambda: __import__("time").sleep(1))
    stored(client, first)
    # Of what is finished, again and again, and of what is not.
    chain = [first.msg_ids[0]]
    for _ in range(3):
        again = client.resubmit(chain[-1])
        assert get(again) in ("done", ["done"])
        chain += again.msg_ids
    wait_until(lambda: slow.msg_ids[0] in client.hub_history(), "the record")
    unfinished = client.resubmit(slow.msg_ids)
    get(unfinished)
    assert len(set(chain)) == 4
    records = {record["msg_id"]: record for record in client.db_query({"label": "often"})}
    assert set(records) == set(chain)
    assert [records[msg_id]["resubmitted"] for msg_id in chain] == [*chain[1:], None]
    assert get(place.client(2).get_result(chain[-1], owner=False)) == "done"
    with pytest.raises(error.RemoteError, match="KeyError"):
        client.resubmit("nobody")


def test_purging(client):
    on_one, on_two, slow = (client[n].apply_async(lambda: 1) for n in (0, 1, 1))
    ids = stored(client, on_one, on_two, slow)
    pending = client[0].apply_async(lambda: __import__("time").sleep(1))
    (pending_id,) = pending.msg_ids
    wait_until(lambda: pending_id in client.hub_history(), "the record")
    with pytest.raises(error.RemoteError, match="IndexError"):
        client.purge_hub_results(pending_id)
    client.purge_hub_results(ids[0])
    assert client.hub_history() == [*ids[1:], pending_id]
    client.purge_hub_results(targets=1)
    assert client.hub_history() == [pending_id]
    done = stored(client, client[1].apply_async(lambda: 1))
    client.purge_hub_results("all")
    assert set(client.hub_history()) & set(done) == set()
    get(pending)
