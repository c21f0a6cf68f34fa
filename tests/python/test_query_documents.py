"""Random queries about what is inside of JSON, compared with what mongomock finds: an implementation of MongoDB's queries that shares nothing with this one.

Where the meaning differs on purpose (src/taskdb/query/mod.rs), the comparison leaves out what it differs about.
"""

import os
import random

import pytest
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
        """Not the empty list, no null in a list, and no list among several: mongomock does not find them all."""
        value = self.value(2)
        return [one for one in value if one is not None] or 0 if isinstance(value, list) else value

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


def has_lists_in_lists(value):
    if isinstance(value, dict):
        return any(map(has_lists_in_lists, value.values()))
    return isinstance(value, list) and any(isinstance(one, list) or has_lists_in_lists(one) for one in value)


def asks_for_lists(query):
    """Beyond those that operators take."""
    if isinstance(query, dict):
        return any(asks_for_lists(one) for key, one in query.items() if key not in ("$in", "$nin", "$all")) or any(
            isinstance(one, list) for key, one in query.items() if key not in ("$in", "$nin", "$all", "$and", "$or")
        )
    return isinstance(query, list) and any(map(asks_for_lists, query))


def leads_through_a_list(value, steps):
    match value:
        case dict():
            return bool(steps) and steps[0] in value and leads_through_a_list(value[steps[0]], steps[1:])
        case list():
            return bool(steps)
    return False


def comparable(query, document):
    """Whether both mean the same by the query, for this document."""
    # There, a list is not looked for among the members of lists.
    if asks_for_lists(query) and has_lists_in_lists(document):
        return False
    if mentions(query, "$exists"):
        # Null and absent are the same here.
        if anywhere(document, lambda one: one is None):
            return False
        # There, `$exists: false` finds a list of which one object lacks the name; in MongoDB, all of them have to.
        if any(leads_through_a_list(document, path) for path in paths(query)):
            return False
    # There, what a negation says of what is not there is neither true nor false, or either.
    return all(leads_on(document, path) for path in paths(query))


# ---- the test


@pytest.fixture
def chance():
    """The same each time unless told otherwise: not all that mongomock does differently is known."""
    seed = int(os.environ.get("IPCLUSTER_TEST_SEED") or 632097)
    print("seed", seed)
    return random.Random(seed)


@pytest.fixture(params=["dictdb", "sqlitedb", "mongodb"])
def client(request, place):
    database = request.param
    arguments = request.getfixturevalue("mongodb").arguments if database == "mongodb" else [f"--{database}"]
    place.controller(*arguments)
    return place.client()


def submit(client, document):
    """The id of a request with such a content. No engine is there: it waits, which its record does not mind."""
    return client._send(client._task_stream, "apply_request", content=document).msg_id


def nested(levels):
    return {"a": nested(levels - 1)} if levels else "the bottom"


def test_documents_come_back_as_they_were_sent(client, chance):
    chooser = Chooser(chance)
    documents = [chooser.document() for _ in range(RECORDS)]
    documents += [{"number": chance.choice([1, -1]) * chance.random() * 10.0 ** chance.randrange(-300, 300)} for _ in range(RECORDS)]
    documents += [{"number": number} for number in (2**64, 2**70, -(2**63) - 1, 10**400, 1e22, 1.7976931348623157e308, 0.1 + 0.2)]
    documents += [nested(levels) for levels in (70, 90, 126, 127, 128, 200, 500)]
    documents += [{name: 1} for name in ("", "$a", "a.b", "a\0b", "é", "_id", "\U0001f600", "__proto__")]
    sent = {submit(client, document): document for document in documents}
    wait_until(lambda: len(client.hub_history()) == len(sent), "the records")
    records = client.db_query({}, keys=["content"])
    wrong = [(sent[one["msg_id"]], one["content"]) for one in records if repr(one["content"]) != repr(sent[one["msg_id"]])]
    assert len(records) == len(sent) and not wrong, wrong


@pytest.mark.timeout(120 + QUERIES)
def test_queries_of_documents_find_what_mongodb_would(client, chance):
    chooser = Chooser(chance)
    documents = {}
    for _ in range(RECORDS):
        document = chooser.document()
        documents[submit(client, document)] = document
    wait_until(lambda: len(client.hub_history()) == RECORDS, "the records")
    told_apart = 0
    for _ in range(QUERIES):
        query = chooser.query()
        asked = foreign_query(query)
        found = {record["msg_id"] for record in client.db_query(query, keys=["msg_id"])}
        compared = {msg_id for msg_id in documents if comparable(query, documents[msg_id])}
        try:
            expected = {msg_id for msg_id in compared if filter_applies(asked, {"content": foreign(documents[msg_id])})}
        except TypeError:
            # Its `$all` stumbles over numbers behind lists.
            assert mentions(query, "$all")
            continue
        wrong = {msg_id: documents[msg_id] for msg_id in (found & compared) ^ expected}
        assert not wrong, (query, {msg_id: (document, msg_id in found) for msg_id, document in wrong.items()})
        told_apart += 0 < len(expected) < len(compared)
    assert told_apart > QUERIES // 4
