"""Asks a hub, and notes its answers so that those of two hubs can be compared.

What is different in each run (ids, times) is replaced by what it stands for.
"""

import contextlib
import re
import threading
import traceback
from datetime import datetime
from pathlib import Path

from ipyparallel import error
from programs import GENEROUS, wait_until

# Seconds for one answer.
PATIENCE = 40

NO_ANSWER = "no answer"

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4,24}(-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})?(_\d+){0,2}\b")
MESSAGE = re.compile(r"(the owner|the asker|engine \d)(_\d+){2}")
DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def with_engines(answer, name):
    match answer:
        case dict():
            return {key: name if key == "engine_id" else with_engines(one, name) for key, one in answer.items()}
        case list():
            return [with_engines(one, name) for one in answer]
        case str():
            return re.sub(r"engine \d", name, answer)
    return answer


class Unordered(list):
    """Records of several queues: which of them the hub has heard of first is a matter of chance."""


class Conversation:
    """Answers to questions, by the questions' names."""

    def __init__(self, place, folder, broadcasts):
        """`broadcasts`: seconds to wait for the records of broadcasts, which ipyparallel's hub does not make."""
        self.place = place
        self.broadcasts_within = broadcasts
        self.gate = str(Path(folder) / "gate")
        self.answers = {}
        self.asker = None
        self.owner = place.client(2)
        # msg_ids by the names of their requests, and the other way round.
        self.ids, self.names = {}, {}
        self.names[self.owner.session.session] = "the owner"
        for n in (0, 1):
            self.names[self.owner._engines[n]] = f"engine {n}"

    # ---- asking

    def ask(self, question, call, fresh=False, on=None):
        """Notes the answer to one question.

        `fresh`: in a client that has seen nothing of the requests. `on`: what engines are called in the answer, when any
        may have been chosen.
        """
        if self.asker is None or fresh:
            self.asker = self.place.client()
            wait_until(lambda: len(self.asker.ids) == len(self.owner.ids), "the engines")
            self.names[self.asker.session.session] = "the asker"
        client, outcome = self.asker, []

        def run():
            try:
                outcome.append(("answer", call(client)))
            except Exception as raised:
                outcome.append(("error", raised))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if not outcome or fresh:
            with contextlib.suppress(Exception):
                client.close()
            self.asker = None
        assert question not in self.answers, question
        kind, value = outcome[0] if outcome else ("answer", NO_ANSWER)
        answer = self.plain(value) if kind == "answer" else self.raised(value)
        self.answers[question] = answer if on is None else with_engines(answer, on)
        return value if kind == "answer" and outcome else None

    def raised(self, failure):
        match failure:
            case error.CompositeError():
                return {"raises": "CompositeError", "of": sorted(self.plain(one[:2]) for one in failure.elist)}
            case error.RemoteError():
                return {"raises": failure.ename, "says": self.plain(failure.evalue)}
            case _:
                where = traceback.extract_tb(failure.__traceback__)[-1].name
                return {"raises here": type(failure).__name__, "says": self.plain(str(failure)), "in": where}

    def plain(self, value):
        match value:
            case dict():
                # Messages carry the version of the protocol that their sender was written for.
                return {self.plain(key): self.plain(one) for key, one in value.items() if key != "version"}
            case Unordered():
                return sorted(map(self.plain, value), key=repr)
            case list() | tuple():
                return [self.plain(one) for one in value]
            case set():
                return sorted(map(self.plain, value))
            case Exception():
                return self.raised(value)
            case datetime():
                return "a date" if value.tzinfo else "a date without a zone"
            case bytes() | memoryview():
                return "bytes"
            case str():
                return self.text(value)
            case None | bool() | int() | float():
                return value
            case _:
                return type(value).__name__

    def text(self, text):
        text = COLOURS.sub("", text)
        for known in sorted(self.names, key=len, reverse=True):
            if known in text:
                # Not the beginning of a longer number.
                text = re.sub(re.escape(known) + r"(?!\d)", self.names[known], text)
        text = MESSAGE.sub(r"a message of \1", text)
        text = DATE.sub("a date", UUID.sub("an id", text))
        return "a traceback" if text.startswith("-----") or "Traceback" in text else text

    # ---- requests

    def name(self, name, result):
        several = len(result.msg_ids) > 1
        for n, msg_id in enumerate(result.msg_ids):
            one = f"{name} {n}" if several else name
            self.ids[one], self.names[msg_id] = msg_id, one
        return result

    def do(self, name, result):
        """A request that is over before the next is made, here and in the hub."""
        self.name(name, result)
        assert result.wait(GENEROUS), name
        self.settle(result.msg_ids)
        return result

    def begin(self, name, result):
        """A request that is not over, but in the hub before the next is made."""
        self.name(name, result)
        wait_until(lambda: result.msg_ids[0] in self.owner.hub_history(), "the record")
        return result

    def broadcast(self, name, result):
        """The same with a broadcast, of which ipyparallel's hub has no record of its parts."""
        self.name(name, result)
        assert result.wait(GENEROUS), name
        with contextlib.suppress(AssertionError):
            self.settle(result.msg_ids, self.broadcasts_within)

    def settle(self, msg_ids, timeout=GENEROUS):
        def complete():
            status = self.owner.db_query({"msg_id": {"$in": list(msg_ids)}}, keys=["completed"])
            return len(status) == len(msg_ids) and all(one["completed"] for one in status)

        wait_until(complete, "the records", timeout)

    def record(self, client, name, keys=None):
        records = client.db_query({"msg_id": self.ids[name]}, keys=keys)
        return records[0] if len(records) == 1 else records
