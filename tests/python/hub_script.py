"""What clients ask of a hub: a script, to be run with two controllers whose answers are then compared."""

import contextlib
import sys
import time
from datetime import timedelta, timezone
from pathlib import Path

from hub_conversation import PATIENCE, Conversation, Unordered
from ipyparallel import Dependency
from programs import GENEROUS, wait_until


# ---- what engines run


def say():
    print("out")
    print("err", file=sys.stderr)
    return 5


def fail():
    return 1 / 0


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.01)
    return "waited"


CELL = """
import sys
from IPython.display import display
print("out")
print("err", file=sys.stderr)
display({"a": 1})
6 * 7
"""


class Script(Conversation):
    """One question after the other. Each is asked once the hub has all that it is about."""

    def run(self):
        self.before_everything()
        self.finished_requests()
        self.unfinished_requests()
        self.results()
        self.queries()
        self.broadcasts()
        self.resubmission()
        self.purging()
        self.engine_that_leaves()
        return self.answers

    def before_everything(self):
        self.ask("history of nothing", lambda client: client.hub_history())
        self.ask("queues of nothing", lambda client: client.queue_status())
        self.ask("queues of nothing, verbose", lambda client: client.queue_status(verbose=True))
        self.ask("status of nothing", lambda client: client.result_status([]))
        self.ask("query of nothing", lambda client: client.db_query({}))
        self.ask("purge all of nothing", lambda client: client.purge_hub_results("all"))
        self.ask("spin", lambda client: client.spin())

    def finished_requests(self):
        owner = self.owner
        balanced = owner.load_balanced_view(targets=0)
        self.do("direct", owner[0].apply_async(say))
        self.do("direct failed", owner[1].apply_async(fail))
        with balanced.temp_flags(label="a label", retries=2, timeout=60):
            self.do("task", balanced.apply_async(say))
        self.do("task failed", balanced.apply_async(fail))
        self.do("execute", owner[0].execute(CELL, silent=False))
        self.do("execute silently", owner[0].execute("print('out'); 5"))
        self.do("execute failed", owner[1].execute("1/0", silent=False))
        self.do("map", owner[:].map_async(abs, [-1, -2, -3, -4]))
        self.do("task map", balanced.map_async(abs, [-1, -2], chunksize=1))
        self.do("both", owner[:].apply_async(abs, -5))
        self.do("push", owner[0].push({"a": 5}))
        with balanced.temp_flags(after=[self.ids["task"]]):
            self.do("dependent", balanced.apply_async(abs, -5))
        with balanced.temp_flags(after=Dependency([self.ids["task failed"]], success=True, failure=False)):
            self.do("impossible", balanced.apply_async(abs, -5))
        with balanced.temp_flags(after=["nobody"]):
            self.do("invalid", balanced.apply_async(abs, -5))

        def output():
            found = owner.db_query({"msg_id": {"$in": [self.ids["direct"], self.ids["task"], self.ids["execute"]]}})
            return [one["stdout"] + one["stderr"] for one in found] == ["out\nerr\n"] * 3

        wait_until(output, "the output")
        wait_until(lambda: self.record(owner, "execute")["execute_result"], "the cell's result")
        wait_until(lambda: self.record(owner, "execute failed")["error"], "the cell's error")
        for name in self.ids:
            self.ask(f"record of {name}", lambda client, name=name: self.record(client, name))
            self.ask(
                f"buffers of {name}",
                lambda client, name=name: self.record(client, name, ["buffers", "result_buffers"]),
            )
        self.ask("queues when all is done", lambda client: client.queue_status())

    def unfinished_requests(self):
        """Requests that run, that wait, and that are aborted."""
        owner = self.owner
        balanced = owner.load_balanced_view(targets=0)
        done = self.ids["direct"]
        running = self.begin("running", balanced.apply_async(wait_for, self.gate))
        waiting = self.begin("waiting", balanced.apply_async(say))
        direct = self.begin("direct running", owner[1].apply_async(wait_for, self.gate))
        behind = self.begin("behind", owner[1].apply_async(say))
        aborted = self.begin("aborted", owner[1].apply_async(say))
        aborted_cell = self.begin("aborted cell", owner[1].execute("5"))
        unfinished = [result.msg_ids[0] for result in (running, waiting, direct, behind, aborted, aborted_cell)]
        wait_until(lambda: owner.queue_status()[0]["tasks"] == 1, "the running task")
        wait_until(lambda: self.record(owner, "running")["engine_uuid"], "its engine in the record")
        for name in ("running", "waiting", "direct running", "behind"):
            self.ask(f"record of {name}", lambda client, name=name: self.record(client, name))
            self.ask(f"status of {name}", lambda client, name=name: client.result_status(self.ids[name]))
        self.ask("queues", lambda client: client.queue_status())
        self.ask("queues, verbose", lambda client: self.without_completed(client.queue_status(verbose=True)))
        self.ask("queue of one", lambda client: client.queue_status(1))
        self.ask("queues of two", lambda client: client.queue_status([0, 1]))
        self.ask("queue of nobody", lambda client: client.queue_status(7))
        self.ask("queues of nobody, on the wire", lambda client: self.wire(client, "queue_request", {"targets": [7]}))
        self.ask("queues of no one, on the wire", lambda client: self.wire(client, "queue_request", {"targets": []}))
        self.ask("status of both kinds", lambda client: client.result_status([*unfinished[:2], done]))
        self.ask("results of both kinds", lambda client: client.result_status([*unfinished[:2], done], status_only=False), True)
        self.ask("status of both kinds and nobody", lambda client: client.result_status([unfinished[0], done, "nobody"]))
        self.ask("purge of what runs", lambda client: client.purge_hub_results(unfinished[0]))
        self.ask("purge of what waits", lambda client: client.purge_hub_results([done, unfinished[1]]))
        self.ask("purge of nobody", lambda client: client.purge_hub_results("nobody"))
        self.ask("the history after refused purges", lambda client: done in client.hub_history())
        abort = owner.abort([aborted, aborted_cell], targets=1, block=False)
        self.ask("wait for a result that does not come", lambda client: client.get_result(unfinished[0]).wait(0.5), True)
        self.ask("wait for a result in time", lambda client: client.get_result(unfinished[0]).get(timeout=0.2), True)
        Path(self.gate).touch()
        for result in (running, waiting, direct, behind, aborted, aborted_cell):
            result.wait(GENEROUS)
        self.ask("abort", lambda _: abort.get(timeout=GENEROUS))
        wait_until(lambda: not set(owner.result_status(unfinished)["pending"]), "the end in the hub")
        self.settle(unfinished[:4])
        self.ask("abort of nobody", lambda client: client.abort("nobody", block=True))
        self.ask("abort of what is done", lambda client: client.abort(done, block=True))
        self.ask("clear", lambda client: client.clear(block=True))
        self.ask("after clear", lambda client: client[0].pull("a", block=True))
        for name in ("aborted", "aborted cell", "running", "behind"):
            self.ask(f"record of {name}, at the end", lambda client, name=name: self.record(client, name))

    @staticmethod
    def without_completed(queues):
        """ipyparallel's lists of what is completed have everything that ever was."""
        return {
            key: {name: one for name, one in queue.items() if name != "completed"} if isinstance(queue, dict) else queue
            for key, queue in queues.items()
        }

    @staticmethod
    def wire(client, msg_type, content):
        """The content of the hub's reply, as it came."""
        reply = client._send_recv(client._query_stream, msg_type, content)
        return {
            "msg_type": reply["header"]["msg_type"],
            **{key: value for key, value in reply["content"].items() if key not in ("traceback", "engine_info")},
        }

    def results(self):
        for name, msg_id in self.ids.items():
            self.ask(f"result of {name}", lambda client, msg_id=msg_id: self.result(client, msg_id), True)
        some = [self.ids[name] for name in ("task map 0", "task map 1", "direct")]
        failed = [self.ids[name] for name in ("direct failed", "direct", "task failed")]
        self.ask("several results", lambda client: client.get_result(some, block=False).get(), True)
        self.ask("several results, some failed", lambda client: client.get_result(failed, block=False).get(), True)
        self.ask("result of nobody", lambda client: client.get_result("nobody").get(), True)
        self.ask("results of somebody and nobody", lambda client: client.get_result([some[0], "nobody"]).get(), True)
        # Both sort what is completed by ids, which are random.
        self.ask("status of all", lambda client: {key: sorted(map(self.plain, ids)) for key, ids in client.result_status(list(self.ids.values())).items()})
        self.ask("status, the same twice", lambda client: client.result_status([some[0], some[0]]))
        self.ask("status of nobody", lambda client: client.result_status("nobody"))
        self.ask("results, status", lambda client: client.result_status(some, status_only=False), True)
        self.ask("result of one that failed, status", lambda client: client.result_status(failed[0], status_only=False), True)
        self.ask("history", lambda client: client.hub_history())
        for content in ({"msg_ids": some[0]}, {"msg_ids": [5]}, {"msg_ids": None}, {}):
            self.ask(f"result_request with {list(content)} {type(content.get('msg_ids')).__name__}", lambda client, content=content: self.wire(client, "result_request", content))
        self.ask("an unknown request", lambda client: self.wire(client, "odd_request", {}))

    @staticmethod
    def result(client, msg_id, timeout=PATIENCE - 1):
        result = client.get_result(msg_id, block=False, owner=False)
        try:
            value = result.get(timeout=timeout)
        except Exception as raised:
            value = raised
        if type(value).__name__ == "ExecuteReply":
            value = {"ExecuteReply": str(value), "data": value._metadata}
        seen = {key: one for key, one in client.metadata[msg_id].items() if key != "received"}
        return {"value": value, "metadata": seen, "stdout": result.stdout, "stderr": result.stderr}

    def queries(self):
        ids = self.ids
        some = [ids["direct"], ids["task"], ids["execute"]]
        (record,) = self.owner.db_query({"msg_id": ids["task"]})
        when = record["submitted"]
        for name, query in {
            "everything": {},
            "one": {"msg_id": ids["task"]},
            "nobody": {"msg_id": "nobody"},
            "null id": {"msg_id": None},
            "$in": {"msg_id": {"$in": some}},
            "$in nothing": {"msg_id": {"$in": []}},
            "$in null": {"label": {"$in": ["a label", None]}},
            "$nin": {"msg_id": {"$nin": some}},
            "$nin nothing": {"msg_id": {"$nin": []}},
            "$nin null": {"label": {"$nin": [None]}},
            "$nin, null fields": {"label": {"$nin": ["a label"]}},
            "$eq": {"queue": {"$eq": "task"}},
            "$eq null": {"queue": {"$eq": None}},
            "$ne": {"queue": {"$ne": "task"}},
            "$ne null": {"label": {"$ne": None}},
            "$ne, null fields": {"label": {"$ne": "a label"}},
            "$lt": {"queue": {"$lt": "task"}},
            "$lte": {"queue": {"$lte": "mux"}},
            "$gt": {"stdout": {"$gt": ""}},
            "$gte": {"stdout": {"$gte": "out\n"}},
            "$lt with null fields": {"label": {"$lt": "b"}},
            "$lt null": {"queue": {"$lt": None}},
            "$lt a number": {"queue": {"$lt": 5}},
            "$all": {"label": {"$all": ["a label"]}},
            "$all, several": {"label": {"$all": ["a label", "other"]}},
            "$mod": {"header.odd": {"$mod": [2, 0]}},
            "$mod of text": {"queue": {"$mod": [2, 0]}},
            "$mod by zero": {"queue": {"$mod": [0, 0]}},
            "$mod of one": {"queue": {"$mod": [2]}},
            "$exists": {"label": {"$exists": True}},
            "$exists not": {"label": {"$exists": False}},
            "$exists 0": {"execute_result": {"$exists": 0}},
            "$glob": {"label": {"$glob": "a*"}},
            "$glob a class": {"queue": {"$glob": "[m-t]u?"}},
            "equal": {"queue": "task"},
            "equal to null": {"queue": None},
            "two equal": {"queue": "task", "label": "a label"},
            "two equal, one not": {"queue": "task", "label": "other"},
            "two equal, the first not": {"label": "other", "queue": "task"},
            "two of different kinds": {"queue": "task", "label": {"$ne": None}},
            "two tests of one": {"submitted": {"$lt": when + timedelta(hours=1), "$gt": when - timedelta(hours=1)}},
            "completed": {"completed": {"$ne": None}},
            "not completed": {"completed": None},
            "a moment": {"submitted": when},
            "a moment in another zone": {"submitted": when.astimezone(timezone(timedelta(hours=-9, minutes=-30)))},
            "before": {"submitted": {"$lt": when}},
            "until": {"submitted": {"$lte": when}},
            "from": {"submitted": {"$gte": when}},
            "after": {"submitted": {"$gt": when}},
            "without a zone": {"submitted": {"$gte": when.astimezone().replace(tzinfo=None)}},
            "moments": {"submitted": {"$in": [when]}},
            "not the moment": {"submitted": {"$ne": when}},
            "a moment, other dates null": {"started": {"$gt": when - timedelta(hours=1)}},
            "a date and text": {"queue": {"$gt": when}},
            "inside": {"header.msg_type": "execute_request"},
            "inside, more deeply": {"result_content.engine_info.method": "apply"},
            "inside of text": {"queue.x": 1},
            "an object": {"header": {"msg_type": "execute_request"}},
            "$eq of an object": {"content": {"$eq": {}}},
            "an unknown operator": {"queue": {"$odd": 1}},
            "an unknown operator at the top": {"$odd": [{}]},
            "an unknown key": {"odd": 1},
            "an unknown key with null": {"odd": None},
            "$in no list": {"queue": {"$in": 5}},
            "$in text": {"queue": {"$in": "mux task"}},
            "$nin null itself": {"queue": {"$nin": None}},
            "a number for text": {"queue": 5},
            "a boolean": {"queue": True},
            "a list": {"queue": ["mux", "task"]},
            "no operators": {"queue": {}},
            "buffers": {"buffers": None},
        }.items():
            self.ask(f"query: {name}", lambda client, query=query: self.found(client, query))
        for name, query, keys in [
            ("one key", {"queue": "task"}, "queue"),
            ("some keys", {"queue": "task"}, ["queue", "label"]),
            ("the id", {"queue": "task"}, ["msg_id"]),
            ("no keys", {"msg_id": ids["task"]}, []),
            ("an unknown key", {"queue": "task"}, ["odd"]),
            ("buffers", {"msg_id": ids["task"]}, ["buffers"]),
            ("result_buffers", {"msg_id": {"$in": some}}, ["result_buffers"]),
            ("both buffers", {"msg_id": {"$in": some}}, ["result_buffers", "buffers", "queue"]),
            ("unknown, and nobody", {"msg_id": "nobody"}, ["odd"]),
            ("keys within", {"msg_id": ids["task"]}, ["header.msg_type"]),
            ("an object", {"msg_id": ids["task"]}, {"queue": 1}),
        ]:
            self.ask(f"keys: {name}", lambda client, query=query, keys=keys: Unordered(client.db_query(query, keys=keys)))
        for query in ([], "label", 7, None, True, [{"queue": "task"}]):
            self.ask(f"a query that is {query!r}", lambda client, query=query: self.found(client, query))

    @staticmethod
    def found(client, query):
        return {record["msg_id"] for record in client.db_query(query, keys=["msg_id"])}

    def broadcasts(self):
        """After the queries: ipyparallel keeps records of them in which everything is null."""
        self.broadcast("broadcast", self.owner.broadcast_view().apply_async(say))
        coalescing = self.owner.broadcast_view()
        coalescing.is_coalescing = True
        self.broadcast("coalesced", coalescing.apply_async(abs, -5))
        for name in ("broadcast 0", "broadcast 1", "coalesced"):
            self.ask(f"record of {name}", lambda client, name=name: self.record(client, name))
            self.ask(f"result of {name}", lambda client, name=name: self.result(client, self.ids[name], self.broadcasts_within), True)
        broadcasts = [self.ids[name] for name in ("broadcast 0", "broadcast 1", "coalesced")]
        # There may be one of the broadcast as a whole.
        broadcasts += [one["msg_id"] for one in self.owner.db_query({"queue": "broadcast"}, keys=["msg_id"])]
        self.ask("purge of broadcasts", lambda client: client.purge_hub_results(broadcasts))

    def resubmission(self):
        ids = self.ids
        for name in ("task", "direct", "task failed", "execute", "dependent"):
            self.resubmit(f"again: {name}", [ids[name]])
        if "again: task" in ids:
            self.resubmit("once more: task", [ids["again: task"]])
        if "once more: task" in ids:
            self.resubmit("a third time: task", [ids["once more: task"]])
        self.resubmit("the same again: task", [ids["task"]])
        self.resubmit("several", [ids["task map 0"], ids["task map 1"]])
        self.ask("resubmit nobody", lambda client: client.resubmit("nobody"))
        self.ask("resubmit somebody and nobody", lambda client: client.resubmit([ids["task"], "nobody"]))
        self.ask("resubmit nothing", lambda client: client.resubmit([]).get(1))
        Path(self.gate).unlink()
        slow = self.begin("slow", self.owner.load_balanced_view(targets=0).apply_async(wait_for, self.gate))
        again = self.ask("resubmit what runs", lambda client: client.resubmit(slow.msg_ids))
        Path(self.gate).touch()
        slow.wait(GENEROUS)
        if again is not None:
            self.name("again: slow", again)
            self.finish("again: slow", "slow")
        self.ask("what resubmission left", lambda client: {one["msg_id"]: one["resubmitted"] for one in client.db_query({"msg_id": {"$ne": ""}}, keys=["resubmitted"])})

    def resubmit(self, name, msg_ids):
        mapping = self.ask(f"resubmit {name}", lambda client: self.wire(client, "resubmit_request", {"msg_ids": msg_ids}))
        new = (mapping or {}).get("resubmitted") or {}
        for n, old in enumerate(new):
            one = name if len(new) == 1 else f"{name} {n}"
            self.ids[one], self.names[new[old]] = new[old], one
        self.answers[f"resubmit {name}"] = self.plain(mapping)
        for n, old in enumerate(new):
            self.finish(name if len(new) == 1 else f"{name} {n}", self.names[old])

    def finish(self, name, original):
        """A request that the hub has made: its result and its record, when both are as whole as those of the original."""

        def is_whole():
            one, other = (self.record(self.owner, name) for name in (name, original))
            return all(bool(one[key]) == bool(other[key]) for key in ("completed", "stdout", "stderr", "error", "execute_result"))

        with contextlib.suppress(AssertionError):
            wait_until(is_whole, name, 30)
        self.ask(f"record of {name}", lambda client: self.record(client, name), on="an engine")
        self.ask(f"result of {name}", lambda client: self.result(client, self.ids[name]), True, on="an engine")

    def purging(self):
        ids = self.ids
        history = lambda client: client.hub_history()
        self.ask("purge one", lambda client: client.purge_hub_results(ids["task"]))
        self.ask("after one", history)
        self.ask("result of what was purged", lambda client: client.get_result(ids["task"]).get(PATIENCE - 1), True)
        self.ask("status of what was purged", lambda client: client.result_status(ids["task"]))
        self.ask("resubmit what was purged", lambda client: client.resubmit(ids["task"]))
        self.ask("purge two", lambda client: client.purge_hub_results([ids["direct"], ids["map 0"]]))
        self.ask("after two", history)
        self.ask("purge somebody and nobody", lambda client: client.purge_hub_results([ids["map 1"], "nobody"]))
        self.ask("after somebody and nobody", history)
        self.ask("purge nothing", lambda client: client.purge_hub_results([]))
        self.ask("purge of no engine", lambda client: client.purge_hub_results(targets=7))
        self.ask("purge of no engine, on the wire", lambda client: self.wire(client, "purge_request", {"engine_ids": [7]}))
        self.ask("purge of an engine and none", lambda client: self.wire(client, "purge_request", {"engine_ids": [1, 7]}))
        self.ask("after an engine and none", history)
        self.ask("purge an engine", lambda client: client.purge_hub_results(targets=1))
        self.ask("after an engine", history)
        self.do("another", self.owner.load_balanced_view().apply_async(abs, -5))
        self.resubmit("one twice", [ids["another"], ids["another"]])
        self.ask("purge everything", lambda client: client.purge_everything())
        self.ask("after everything", history)
        self.ask("query after everything", lambda client: client.db_query({"msg_id": {"$ne": ""}}))

    def engine_that_leaves(self):
        Path(self.gate).unlink()
        owner = self.owner
        slow = self.begin("on the engine", owner[1].apply_async(wait_for, self.gate))
        self.do("before it left", owner[0].apply_async(say))
        # A request that runs is not stopped by a polite shutdown.
        Path(self.gate).touch()
        slow.wait(GENEROUS)
        self.settle(slow.msg_ids)
        self.ask("shutdown of one engine", lambda client: client.shutdown(1, block=True))
        wait_until(lambda: owner.ids == [0], "the engine's end")
        self.ask("ids", lambda client: client.ids, True)
        self.ask("queues after it left", lambda client: self.without_completed(client.queue_status()))
        self.ask("record of its request", lambda client: self.record(client, "on the engine"))
        self.ask("result of its request", lambda client: self.result(client, slow.msg_ids[0]), True)
        self.ask("purge of its results", lambda client: self.wire(client, "purge_request", {"engine_ids": [1]}))
        self.ask("what remains", lambda client: client.hub_history())
