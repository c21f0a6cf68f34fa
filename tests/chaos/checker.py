"""Judges a run by its history: a pure function from events to what is wrong. See `history` for the events.

What has to hold:
- every request that the hub has named (accepted) has a record in the end, and has ended
- a result that the hub has named (stored) is there in the end, and is right
- a request has one reply; a second one only if the controller was killed in between, and takes the task up again
- a reply is right: the function's value, or an error for which there is a cause
- a request is answered if neither its client's link nor the controller failed while it was open
- a task runs once, unless an engine, a link or the controller failed, or it was to be retried
- a task runs after those that it waits for
- nothing is left over
"""

from collections import Counter, defaultdict

# Seconds that the effects of a fault may last.
AFTERMATH = 4

# So long a controller that was restored expects engines, and some more, in seconds.
EXPECTED_FOR = 35
CONTROLLER_LOST = {"controller killed", "controller ended"}
CLIENT_LINK = {"clients' link down", "clients' link slow", "clients' link frozen", "no more descriptors"}
ENGINE_LOST = {
    "kernel killed",
    "engines killed",
    "engines flap",
    "engines stopped",
    "controller stopped",
    "engines' link down",
    "engines' link broken",
    "engines' link slow",
    "engines' link frozen",
    "no more descriptors",
} | CONTROLLER_LOST  # fmt: skip
DISK = {"disk full", "no more descriptors"}


class Faults:
    """When which faults were in force."""

    def __init__(self, events):
        self.spans = []
        begun = {}
        for event in events:
            if event["what"] == "fault":
                begun.setdefault(event["name"], event["at"])
            elif event["what"] == "healed" and event["name"] in begun:
                self.spans.append((event["name"], begun.pop(event["name"]), event["at"]))
        self.spans += [(name, at, float("inf")) for name, at in begun.items()]

    def any(self, names, since, until, aftermath=0.0):
        """Was one of these in force, or over for less than `aftermath`, at some time from `since` until `until`?"""
        return any(name in names and begin <= until and end + aftermath >= since for name, begin, end in self.spans)


def check(events):
    """(what is wrong: [text], figures: {name: number})"""
    return Check(events).run()


class Check:
    def __init__(self, events):
        self.events = events
        self.faults = Faults(events)
        self.wrong = []
        self.by_what = defaultdict(list)
        for event in events:
            self.by_what[event["what"]].append(event)
        self.submitted = {event["msg_id"]: event for event in self.by_what["submitted"]}
        self.accepted = {event["msg_id"]: event["at"] for event in self.by_what["accepted"]}
        self.stored = {event["msg_id"]: event["at"] for event in self.by_what["stored"]}
        self.found = {event["msg_id"]: event for event in self.by_what["found"]}
        self.aborted = {event["msg_id"] for event in self.by_what["aborting"]}
        self.replies = defaultdict(list)
        for event in self.by_what["replied"]:
            self.replies[event["msg_id"]].append(event)
        self.client_ends = {}
        for event in events:
            self.client_ends[event["who"]] = event["at"]

    def run(self):
        self.check_records()
        self.check_replies()
        self.check_unanswered()
        self.check_executions()
        for event in self.by_what["leak"] + self.by_what["end"]:
            self.wrong.append(f"{event['what']}: {event['text']}")
        if not self.by_what["audited"]:
            self.wrong.append("the audit did not come to its end")
        return self.wrong, self.figures()

    def complain(self, msg_id, text):
        event = self.submitted.get(msg_id, {})
        self.wrong.append(f"{event.get('kind')} {event.get('task')} ({msg_id}, at {event.get('at', 0):.2f}): {text}")

    # ---- what the hub has

    def check_records(self):
        for msg_id, at in self.accepted.items():
            record = self.found.get(msg_id)
            if record is None:
                self.complain(msg_id, f"was accepted at {at:.2f}, and the hub does not know it")
            elif not record["completed"]:
                self.complain(msg_id, f"was accepted at {at:.2f}, and never ended")
        for msg_id, at in self.stored.items():
            record = self.found.get(msg_id)
            if record is None or not record["completed"]:
                self.complain(msg_id, f"its result was stored at {at:.2f}, and is lost")
        for msg_id, record in self.found.items():
            if record["completed"] and msg_id in self.submitted:
                self.check_outcome(record, record["at"], "the hub has")

    # ---- what clients got

    def check_replies(self):
        for msg_id, replies in self.replies.items():
            if msg_id not in self.submitted:
                # The client was ended between its sending and its telling.
                continue
            for reply in replies:
                self.check_outcome(reply, reply["at"], "the client got")
            for one, next_one in zip(replies, replies[1:]):
                if not self.faults.any(CONTROLLER_LOST, self.submitted[msg_id]["at"] - 5, next_one["at"]):
                    self.complain(msg_id, f"was answered at {one['at']:.2f} and again at {next_one['at']:.2f}")

    def check_outcome(self, outcome, until, who):
        msg_id = outcome["msg_id"]
        request = self.submitted[msg_id]
        if outcome["ok"]:
            value = outcome["value"]
            if value != request["value"] and not (isinstance(value, list) and set(value) == {request["value"]}):
                self.complain(msg_id, f"{who} {outcome['value']} in place of {request['value']}")
            elif request["may_fail"] and not self.was_tried_again(msg_id):
                self.complain(msg_id, f"{who} a value where the function fails")
        elif not self.is_excused(outcome, request, until):
            self.complain(msg_id, f"{who} {outcome['ename']}: {outcome.get('evalue')} at {until:.2f}, without a cause")

    def was_tried_again(self, msg_id):
        request = self.submitted[msg_id]
        return self.faults.any(ENGINE_LOST, request["at"] - AFTERMATH, float("inf"))

    def is_excused(self, outcome, request, until):
        ename, msg_id = outcome["ename"], outcome["msg_id"]
        since = request["at"]
        if ename == "RuntimeError":
            # A task that has been aborted is not tried again.
            return request["may_fail"] or (request["kind"] == "retries" and msg_id in self.aborted)
        if ename == "TaskAborted":
            return msg_id in self.aborted
        if ename == "EngineError" and "is registered" in outcome.get("evalue", ""):
            # It had left long before, and the client has not heard of it.
            client_began = min(event["at"] for event in self.by_what["submitted"] if event["who"] == request["who"])
            unheard = self.faults.any(CLIENT_LINK | CONTROLLER_LOST | {"client stopped"}, client_began - AFTERMATH, since)
            since = client_began if unheard else since
            return self.faults.any(ENGINE_LOST, since, until, AFTERMATH)
        if ename == "EngineError" and "did not come back" in outcome.get("evalue", ""):
            # A restored controller expects those of the former one for a while, also when they have died meanwhile.
            since -= EXPECTED_FOR
        if ename == "EngineError":
            return self.faults.any(ENGINE_LOST, since, until, AFTERMATH)
        if ename == "ImpossibleDependency":
            # Several that a task follows may have run on different engines.
            follows_several = request["kind"] == "follow" and len(request["after"]) > 1
            return follows_several or any(self.may_have_failed(one, until) for one in request["after"])
        if ename == "InvalidDependency":
            return any(one not in self.accepted for one in request["after"])
        if ename == "OSError":
            # An engine that may open no more files.
            return self.faults.any({"no more descriptors"}, since, until, AFTERMATH)
        return False

    def may_have_failed(self, msg_id, until):
        """A task that another one waits for, or, with `follow`, the engine that it ran on."""
        request = self.submitted.get(msg_id)
        if request is None or request["may_fail"] or msg_id in self.aborted:
            return True
        outcomes = [*self.replies.get(msg_id, []), *filter(None, [self.found.get(msg_id)])]
        if any(not one.get("ok", True) for one in outcomes):
            return True
        # One that must follow it has to have its engine.
        return self.faults.any(ENGINE_LOST, request["at"], until, AFTERMATH)

    # ---- what clients did not get

    def check_unanswered(self):
        stranded = {event["msg_id"] for event in self.by_what["stranded"]}
        for msg_id, request in self.submitted.items():
            if msg_id in self.replies or msg_id in stranded:
                continue
            until = self.client_ends[request["who"]]
            if not self.ended_in_order(request["who"]):
                continue
            if self.faults.any(CONTROLLER_LOST | CLIENT_LINK, request["at"] - 5, until, 5):
                continue
            self.complain(msg_id, "was never answered, though the controller and the client's link were well")

    def ended_in_order(self, client):
        return any(event["who"] == client for event in self.by_what["ended"])

    # ---- what kernels did

    def check_executions(self):
        begun, done = defaultdict(list), defaultdict(list)
        for event in self.by_what["begun"]:
            begun[event["task"]].append(event["at"])
        for event in self.by_what["done"]:
            done[event["task"]].append(event["at"])
        tasks = defaultdict(list)
        for msg_id, request in self.submitted.items():
            tasks[request["task"]].append((msg_id, request))
        for task, requests in tasks.items():
            msg_id, request = requests[0]
            times = sorted(begun[task])
            allowed = {"broadcast": 1000, "retries": 5}.get(request["kind"], 1)
            if len(times) > allowed and not self.faults.any(ENGINE_LOST, times[0] - AFTERMATH, times[-1]):
                self.complain(msg_id, f"ran {len(times)} times, at {', '.join(f'{one:.2f}' for one in times)}")
            oks = [one for one in self.replies.get(msg_id, []) if one["ok"]]
            if oks and not done[task]:
                self.complain(msg_id, "was answered, and never ran")
            for needed in request["after"]:
                earlier = self.submitted.get(needed)
                if times and earlier and begun[earlier["task"]] and oks:
                    ends = done[earlier["task"]]
                    if not ends or min(ends) > max(times):
                        self.complain(msg_id, f"ran before {earlier['task']}, which it waits for, had ended")

    # ---- figures

    def figures(self):
        outcomes = Counter()
        for msg_id, replies in self.replies.items():
            outcomes.update({"ok" if replies[0]["ok"] else replies[0]["ename"]})
        return {
            "requests": len(self.submitted),
            "accepted": len(self.accepted),
            "stored": len(self.stored),
            "answered": len(self.replies),
            "answered twice": sum(len(replies) > 1 for replies in self.replies.values()),
            "outcomes": dict(outcomes.most_common()),
            "clients": len({event["who"] for event in self.by_what["submitted"]}),
            "clients that gave up": len(self.by_what["gave up"]),
            "kernels": len({event["who"] for event in self.by_what["begun"]}),
            "faults": dict(sorted(Counter(event["name"] for event in self.by_what["fault"]).items())),
            "wrong": len(self.wrong),
        }
