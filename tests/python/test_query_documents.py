"""Random queries about what is inside of JSON, compared with what mongomock finds: an implementation of MongoDB's queries that shares nothing with this one.

Where the meaning differs on purpose (src/taskdb/query/mod.rs), the comparison leaves out what it differs about.
"""

import os

import pytest
from ipyparallel import error
from mongomock.filtering import filter_applies
from programs import wait_until

# How many of each; many more in the long run.
RECORDS = 150
QUERIES = int(os.environ.get("IPCLUSTER_TEST_QUERIES", "1000"))

NUMBERS = [0, 1, 2, 3, -1, -2, 1.0, 0.5, -0.0, 2.5, 1e300, -1e300, 5e-324, 2**31, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63), 2**64 - 1]
TEXTS = ["", "a", "b", "ab", "A", "é", "e\u0301", "ß", "Z", "\U0001f600", "\uffff", "a\0b", "1", "true", "null", "$a", "a.b", "\n", " "]
PATTERNS = ["^a", "b$", "", ".", "[^a]", "a|b", "(?i)^a$", "\\d", "é"]
NAMES = ["a", "b", "c"]


class Chooser:
    def __init__(self, chance):
        self.chance = chance

    def scalar(self):
        kind = self.chance.randrange(8)
        if kind == 0:
            return None
        if kind == 1:
            return self.chance.choice([True, False])
        return self.chance.choice(NUMBERS if kind < 5 else TEXTS)

    def value(self, depth=3):
        kind = self.chance.randrange(10) if depth else 0
        if kind < 6:
            return self.scalar()
        if kind < 8:
            return [self.value(depth - 1) for _ in range(self.chance.randrange(4))]
        return self.document(depth - 1)

    def document(self, depth=3):
        return {name: self.value(depth) for name in NAMES if self.chance.random() < 0.6}

    def path(self):
        steps = [self.chance.choice(NAMES)]
        while self.chance.random() < 0.4:
            steps.append(self.chance.choice([*NAMES, "0", "1"]))
        return ".".join(["content", *steps])

    def argument(self):
        """Not the empty list, and no list among several: mongomock does not find them."""
        value = self.value(2)
        return 0 if value == [] else value

    def arguments(self, null=True):
        values = [self.argument() for _ in range(self.chance.choice([0, 1, 1, 2, 3, 5]))]
        return [one for one in values if not isinstance(one, list) and (null or one is not None)]

    def test(self):
        """What one place is to be."""
        chance = self.chance
        kind = chance.randrange(11)
        if kind < 2:
            value = self.argument()
            # A bare object would be operators.
            return {"$eq": value} if isinstance(value, dict) else value
        if kind == 2:
            return {chance.choice(["$eq", "$ne"]): self.argument()}
        if kind < 5:
            return {chance.choice(["$in", "$nin"]): self.arguments()}
        if kind == 5:
            return {"$all": self.arguments(null=False) or ["a"]}  # Nor null within `$all`.
        if kind == 6:
            return {"$exists": chance.choice([True, False])}
        if kind == 7:
            return {"$regex": chance.choice(PATTERNS)}
        if kind == 8:
            negated = self.test()
            return {"$not": negated if isinstance(negated, dict) else {"$eq": negated}}
        # Other types have no order.
        some = chance.choice([NUMBERS, TEXTS])
        compare = ["$lt", "$lte", "$gt", "$gte"]
        return {operator: chance.choice(some) for operator in chance.sample(compare, chance.choice([1, 1, 2]))}

    def query(self, depth=3):
        chance = self.chance
        kind = chance.randrange(10) if depth else 0
        if kind < 7:
            return {self.path(): self.test() for _ in range(chance.choice([1, 1, 1, 2, 3]))}
        some = [self.query(depth - 1) for _ in range(chance.choice([1, 2, 3]))]
        if kind == 7:
            return {"$and": some}
        if kind == 8:
            return {"$or": some}
        return {"$not": some[0]}


# ---- what mongomock is asked


def foreign(value):
    """For mongomock: true is not 1, which it is in Python; a query as a whole is negated by `$nor`."""
    match value:
        case bool():
            return {"a boolean": str(value)}
        case list():
            return [foreign(one) for one in value]
        case dict():
            return {key: one if key == "$exists" else foreign(one) for key, one in value.items()}
    return value


def foreign_query(query):
    found = {}
    for key, condition in query.items():
        match key:
            case "$and" | "$or":
                found[key] = [foreign_query(one) for one in condition]
            case "$not":
                found["$nor"] = [foreign_query(condition)]
            case _:
                found[key] = foreign(condition)
    return found


def anywhere(value, test):
    if isinstance(value, dict):
        return any(anywhere(one, test) for one in value.values())
    if isinstance(value, list):
        return any(anywhere(one, test) for one in value)
    return test(value)


def mentions(query, name):
    if isinstance(query, dict):
        return any(key == name or mentions(one, name) for key, one in query.items())
    return isinstance(query, list) and any(mentions(one, name) for one in query)


def paths(query):
    for key, condition in query.items():
        match key:
            case "$and" | "$or":
                for one in condition:
                    yield from paths(one)
            case "$not":
                yield from paths(condition)
            case _:
                yield key.split(".")[1:]


def leads_on(value, steps):
    """Whether a path never leads into what has no inside, such as a number, or beyond the end of a list."""
    if not steps:
        return True
    step, *rest = steps
    match value:
        case dict():
            return step not in value or leads_on(value[step], rest)
        case list() if step.isdigit():
            return int(step) < len(value) and leads_on(value[int(step)], rest)
        case list():
            return bool(value) and all(isinstance(one, dict) and leads_on(one, steps) for one in value)
    return False


def comparable(query, document):
    """Whether both mean the same by the query, for this document."""
    # Null and absent are the same here.
    if mentions(query, "$exists") and anywhere(document, lambda one: one is None):
        return False
    # There, what a negation says of what is not there is neither true nor false, or either.
    return all(leads_on(document, path) for path in paths(query))


# ---- the test


@pytest.fixture(params=["dictdb", "sqlitedb", "mongodb"])
def client(request, place):
    database = request.param
    arguments = request.getfixturevalue("mongodb").arguments if database == "mongodb" else [f"--{database}"]
    place.controller(*arguments)
    return place.client()


@pytest.mark.timeout(120 + QUERIES)
def test_queries_of_documents_find_what_mongodb_would(client, chance):
    chooser = Chooser(chance)
    documents = {}
    for _ in range(RECORDS):
        document = chooser.document()
        # No engine is there: the tasks wait, which their records do not mind.
        message = client._send(client._task_stream, "apply_request", content=document)
        documents[message.msg_id] = document
    wait_until(lambda: len(client.hub_history()) == RECORDS, "the records")
    told_apart = 0
    for _ in range(QUERIES):
        query = chooser.query()
        asked = foreign_query(query)
        found = {record["msg_id"] for record in client.db_query(query, keys=["msg_id"])}
        compared = {msg_id for msg_id in documents if comparable(query, documents[msg_id])}
        expected = {msg_id for msg_id in compared if filter_applies(asked, {"content": foreign(documents[msg_id])})}
        wrong = {msg_id: documents[msg_id] for msg_id in (found & compared) ^ expected}
        assert not wrong, (query, {msg_id: (document, msg_id in found) for msg_id, document in wrong.items()})
        told_apart += 0 < len(expected) < len(compared)
    assert told_apart > QUERIES // 4
