"""Queries of the stock client, compared with what ipyparallel's own databases find in the same records."""

import fnmatch
import logging
import os
from datetime import datetime, timedelta, timezone

import pytest
from ipyparallel import error
from ipyparallel.controller.dictdb import DictDB, filters
from ipyparallel.controller.sqlitedb import SQLiteDB
from ipyparallel.util import ensure_timezone
from programs import GENEROUS, wait_until

# How many in one test; many more in the long run.
QUERIES = int(os.environ.get("IPCLUSTER_TEST_QUERIES", "1000"))

DATES = ["submitted", "started", "completed", "received", "header.date"]
TEXTS = ["msg_id", "client_uuid", "engine_uuid", "queue", "label", "stdout", "execute_input", "header.msg_type"]
NUMBERS = ["metadata.retries", "metadata.timeout", "error.odd"]
LISTS = ["metadata.targets", "result_metadata.odd"]
# Never null: SQL and Python differ over what null is unequal to, and Python is right.
FULL_TEXTS = ["msg_id", "client_uuid", "queue", "stdout"]


class Reference(DictDB):
    """ipyparallel's DictDB without its known faults."""

    corrected = {
        **filters,
        # It compares the wrong way round.
        "$gt": lambda a, b: a > b,
        # The oldest documentation has these two, and defines them so.
        "$ge": lambda a, b: a > b,
        "$le": lambda a, b: a < b,
        # It asks whether the value is in each of the elements.
        "$all": lambda a, b: bool(b) and all(one in a if isinstance(a, list) else one == a for one in b),
        # Case counts on every system.
        "$glob": fnmatch.fnmatchcase,
    }

    def find(self, query):
        """msg_ids, sorted. Names with dots look into objects; several plain values are each compared with their own."""
        found = self._records.values()
        return sorted(record["msg_id"] for record in found if all(map(self.holds, [record] * len(query), query.items())))

    def holds(self, record, condition):
        path, wanted = condition
        value = record
        for step in path.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if not isinstance(wanted, dict):
            wanted = {"$eq": wanted}
        return all(self.test(operator, value, with_zones(argument)) for operator, argument in wanted.items())

    def test(self, operator, value, argument):
        try:
            return self.corrected[operator](value, argument)
        except TypeError:
            # Values of another type, and null, do not match; there it is an error.
            return False


def with_zones(value):
    if isinstance(value, list):
        return [with_zones(one) for one in value]
    return ensure_timezone(value) if isinstance(value, datetime) else value


def work(client):
    """Requests of all kinds."""
    balanced = client.load_balanced_view()
    results = []
    for n, label in enumerate([None, "a", "b", "ab", "group_a/é", "group_b/x", "a*b", "[a]", "Ä", "a\nb"]):
        with balanced.temp_flags(label=label, retries=n % 4, timeout=[0, 600, 250.5][n % 3]):
            results.append(balanced.apply_async(lambda: print("said")))
        with balanced.temp_flags(label=label):
            results.append(balanced.apply_async(lambda: 1 / 0))
        results.append(client[0].apply_async(lambda: None))
        results.append(client[0].execute(f"print({n})", silent=False))
    results.append(client.broadcast_view().apply_async(lambda: 1))
    for result in results:
        result.wait(GENEROUS)
    return results


def records_of(client):
    """All of them, once nothing is to be expected any more."""
    wait_until(lambda: not client.db_query({"completed": None}, keys=["msg_id"]), "the results")
    wait_until(lambda: len(client.db_query({"stdout": {"$ne": ""}}, keys=["msg_id"])) == 20, "the output")
    return client.db_query({})


class Chooser:
    """Random queries about what is in some records, or nearly."""

    def __init__(self, chance, records):
        self.chance = chance
        self.values = {
            name: [value for value in (look_up(record, name) for record in records) if value is not None]
            for name in {*DATES, *TEXTS, *NUMBERS, *FULL_TEXTS}
        }

    def date(self, name):
        date = self.chance.choice(self.values[name])
        date += self.chance.choice([timedelta(0), timedelta(milliseconds=1), -timedelta(milliseconds=1), timedelta(hours=1)])
        zone = self.chance.choice([timezone.utc, timezone(timedelta(hours=-9, minutes=-30)), None])
        if zone is None:
            return date.astimezone().replace(tzinfo=None)
        return date.astimezone(zone)

    def text(self, name):
        known = self.values[name] or ["a"]
        text = self.chance.choice([*known, "", "a", "zz", "é"])
        return text[: self.chance.choice([len(text), len(text), 1])]

    def number(self, name):
        return self.chance.choice([*self.values[name], 0, 1, 1.5, -1, 60])

    def pattern(self, name):
        text = self.text(name)
        return self.chance.choice([text, text[:3] + "*", "*" + text[-2:], "?" * len(text), "[a-g]*", "*[!b]", "*[*]*", text.upper()])

    def some(self, value, name, null=True):
        values = [value(name) for _ in range(self.chance.randrange(4))]
        return values + [None] * (null and self.chance.random() < 0.2)

    def test(self, name, value):
        """What one field is to be."""
        chance = self.chance
        kind = chance.randrange(10)
        if kind < 2:
            return chance.choice([None, value(name), value(name)])
        if kind < 4:
            return {chance.choice(["$in", "$nin"]): self.some(value, name)}
        if kind == 4:
            return {"$exists": chance.choice([True, False])}
        if kind == 5:
            return {chance.choice(["$eq", "$ne"]): chance.choice([None, value(name)])}
        compare = ["$lt", "$lte", "$gt", "$gte", "$ge", "$le"]
        return {operator: value(name) for operator in chance.sample(compare, chance.choice([1, 1, 2]))}

    def condition(self):
        chance = self.chance
        kind = chance.randrange(10)
        if kind < 4:
            name = chance.choice(DATES)
            return name, self.test(name, self.date)
        if kind < 6:
            name = chance.choice(TEXTS)
            return name, self.test(name, self.text)
        if kind == 6:
            name = chance.choice(TEXTS)
            return name, {"$glob": self.pattern(name)}
        if kind == 7:
            name = chance.choice(NUMBERS)
            return name, chance.choice([{"$mod": [chance.choice([2, 3, -2, 2.5]), chance.choice([0, 1, -1])]}, self.test(name, self.number)])
        if kind == 8:
            name = chance.choice([*LISTS, "label", "queue"])
            return name, {"$all": [self.text("label") for _ in range(chance.randrange(3))]}
        # Another type than the field's. (The date of a header is text that can be read as a date: both compare.)
        return chance.choice(DATES[:4]), {"$lt": self.text("label")}

    def query(self):
        return dict(self.condition() for _ in range(self.chance.choice([0, 1, 1, 1, 2, 2, 3])))

    def plain_query(self):
        """One that ipyparallel's SQLiteDB understands as well, and means the same by."""
        chance = self.chance
        query = {}
        for _ in range(chance.choice([1, 1, 2])):
            name = chance.choice(FULL_TEXTS)
            if chance.random() < 0.3:
                # Its ranges of letters have another negation.
                query[name] = {"$glob": self.pattern(name).replace("[!", "[^").replace("[^b]", "x")}
            elif chance.random() < 0.3:
                query[name] = {chance.choice(["$in", "$nin"]): [self.text(name), *self.some(self.text, name, null=False)]}
            else:
                compare = chance.choice(["$lt", "$lte", "$gt", "$gte", "$eq", "$ne"])
                query[name] = chance.choice([self.text(name), {compare: self.text(name)}])
        name = chance.choice(DATES[:4])
        # Text to it: only one zone compares, and one number of digits.
        date = chance.choice(self.values[name]).astimezone(timezone.utc)
        if date.microsecond and chance.random() < 0.5:
            query[name] = {chance.choice(["$lt", "$lte", "$gt", "$gte"]): date}
        return query


def look_up(record, path):
    for step in path.split("."):
        record = record.get(step) if isinstance(record, dict) else None
    return record


def ids(records):
    return sorted(record["msg_id"] for record in records)


@pytest.fixture(params=["dictdb", "sqlitedb", "mongodb"])
def client(request, place):
    database = request.param
    arguments = request.getfixturevalue("mongodb").arguments if database == "mongodb" else [f"--{database}"]
    place.controller(*arguments)
    place.engines(1)
    return place.client(1)


@pytest.mark.filterwarnings("ignore:Interpreting naive datetime")
@pytest.mark.timeout(120 + QUERIES)
def test_queries_find_what_the_original_finds(client, chance, tmp_path):
    work(client)
    records = records_of(client)
    assert len(records) == 42, "each request, and the one engine's part of the broadcast"
    reference = Reference(record_limit=10_000)
    sqlite = SQLiteDB(location=str(tmp_path), filename="reference.db", log=logging.getLogger())
    for record in records:
        reference.add_record(record["msg_id"], dict(record))
        # It cannot keep objects there.
        row = {key: None if key in ("execute_result", "error") else value for key, value in record.items()}
        row.pop("display_data", None)
        sqlite.add_record(record["msg_id"], row)
    chooser = Chooser(chance, records)
    found = 0
    for _ in range(QUERIES):
        query = chooser.query()
        expected = reference.find(query)
        assert ids(client.db_query(query, keys=["msg_id"])) == expected, query
        found += 0 < len(expected) < len(records)
    for _ in range(QUERIES // 2):
        query = chooser.plain_query()
        expected = ids(sqlite.find_records(query, ["msg_id"]))
        assert ids(client.db_query(query, keys=["msg_id"])) == expected, query
        found += 0 < len(expected) < len(records)
    assert found > QUERIES // 4, "queries that tell records apart"
    sqlite.close()
    fields = sorted(set(records[0]) - {"display_data"})
    for _ in range(20):
        keys = chance.sample(fields, chance.randrange(len(fields)))
        expected = [{"msg_id": record["msg_id"], **{key: record[key] for key in keys}} for record in records]
        assert client.db_query({}, keys=keys) == expected, keys
    assert client.hub_history() == [one["msg_id"] for one in sorted(records, key=lambda one: one["submitted"])]


def raised(call):
    try:
        call()
    except error.RemoteError as failed:
        return failed.ename
    except Exception as failed:
        return type(failed).__name__
    return None


def test_what_is_wrong_is_wrong_in_the_original_s_way(client, tmp_path):
    sqlite = SQLiteDB(location=str(tmp_path), filename="reference.db", log=logging.getLogger())
    dictdb = DictDB()
    result = client[0].apply_async(lambda: 1)
    result.wait(GENEROUS)
    (record,) = wait_until(lambda: client.db_query({"completed": {"$ne": None}}), "the record")
    dictdb.add_record(record["msg_id"], dict(record))
    for query, keys in [
        ({"nonsense": 1}, None),
        ({"label": {"$odd": 1}}, None),
        ({}, ["complete"]),
        ({}, ["msg_id", "nonsense"]),
        ([], None),
        ("label", None),
        (7, None),
        ({"label": {"$in": 7}}, None),
        ({"submitted": {"$mod": 7}}, None),
    ]:
        classes = {raised(lambda db=db: db.find_records(query, keys and list(keys))) for db in (sqlite, dictdb)} - {None, "OperationalError"}
        ours = raised(lambda: client.db_query(query, keys))
        assert ours in (classes or {None}), (query, keys, ours, classes)
    sqlite.close()
