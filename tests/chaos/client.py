"""A stock client at work: CONNECTION_FILE HISTORY_FOLDER NAME SEED. On SIGTERM it submits nothing more and waits for what
it has open; it ends by itself when the hub does not answer, as a user would end it.
"""

import os
import random
import signal
import sys
import threading
import time

import ipyparallel
from ipyparallel.serialize import deserialize_object

from history import Writer, number

# Requests that are open at a time.
WINDOW = 40
# Seconds in which the hub has to answer, and in which everything open has to be through in the end.
HUB_PATIENCE = 8
PATIENCE = 20
KINDS = ["task", "task", "task", "map", "direct", "direct", "broadcast", "after", "follow", "retries", "fails", "large", "prints"]


def work(task, value, seconds, failures, folder, payload=b"", text=""):
    """The function of every task. Fails at its first `failures` attempts."""
    import json
    import os
    import time

    def log(what):
        line = json.dumps({"at": time.monotonic(), "who": "kernel %d" % os.getpid(), "what": what, "task": task})
        file = os.open(os.path.join(folder, "kernel-%d.jsonl" % os.getpid()), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode() + b"\n")
        os.close(file)

    log("begun")
    if text:
        print(text)
    time.sleep(seconds)
    for attempt in range(failures):
        try:
            os.close(os.open(os.path.join(folder, "failed-%s-%d" % (task, attempt)), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        log("failed")
        raise RuntimeError("on purpose")
    log("done")
    return [2 * value, payload]


class Client(ipyparallel.Client):
    """Tells of every reply, also of one that comes twice."""

    write = None
    invents = False

    def _handle_stranded_msgs(self, eid, uuid):
        """ipyparallel's client makes up replies when it hears that an engine has left."""
        self.invents = True
        try:
            super()._handle_stranded_msgs(eid, uuid)
        finally:
            self.invents = False

    def _handle_apply_reply(self, msg):
        content = msg["content"]
        if self._should_use_metadata_msg_id(msg):
            msg_id = msg["metadata"]["original_msg_id"]
        else:
            msg_id = msg["parent_header"]["msg_id"]
        if self.invents:
            self.write("stranded", msg_id=msg_id)
        elif content["status"] == "ok":
            value = deserialize_object(list(msg["buffers"]))[0]
            self.write("replied", msg_id=msg_id, ok=True, value=number(value))
        else:
            names = {"aborted": "TaskAborted"}
            ename = content.get("ename") or names.get(content["status"], content["status"])
            self.write("replied", msg_id=msg_id, ok=False, ename=ename, evalue=str(content.get("evalue"))[:200])
        if msg_id in self.outstanding:
            super()._handle_apply_reply(msg)


class Workload:
    def __init__(self, file, folder, name, seed):
        self.chance = random.Random(seed)
        self.folder, self.name = folder, name
        self.write = Writer(os.path.join(folder, f"{name}.jsonl"), name)
        self.ending = False
        self.last_answer = time.monotonic()
        threading.Thread(target=self.watch, daemon=True).start()
        Client.write = self.write
        self.client = Client(file, timeout=HUB_PATIENCE)
        self.count = 0
        self.unstored = {}
        self.recent = []

    def watch(self):
        """A hub that does not answer keeps the stock client waiting for ever."""
        while time.monotonic() - self.last_answer < HUB_PATIENCE:
            time.sleep(0.5)
        self.write("gave up")
        os._exit(3)

    def run(self):
        while not self.ending:
            if len(self.client.outstanding) < WINDOW and self.client.ids:
                self.submit(self.chance.choice(KINDS))
            else:
                time.sleep(0.02)
            if self.chance.random() < 0.2:
                self.ask()
            if self.chance.random() < 0.03 and (open_now := self.client.outstanding.copy()):
                self.abort(self.chance.choice(sorted(open_now)))
        deadline = time.monotonic() + PATIENCE
        while self.client.outstanding and time.monotonic() < deadline:
            self.ask()
            time.sleep(0.1)
        self.ask()
        self.write("ended", open=len(self.client.outstanding))

    def submit(self, kind):
        chance, client = self.chance, self.client
        seconds = chance.choice([0, 0, 0, 0.01, 0.1])
        view, failures, count, more, after = client.load_balanced_view(), 0, 1, {}, []
        if kind == "map":
            count = chance.randrange(2, 8)
        elif kind == "direct":
            view = client[chance.choice(client.ids)]
        elif kind == "broadcast":
            view = client.broadcast_view()
            view.is_coalescing = chance.random() < 0.5
        elif kind in ("after", "follow") and self.recent:
            after = chance.sample(self.recent, min(len(self.recent), chance.randrange(1, 4)))
            setattr(view, kind, after)
        elif kind == "retries":
            failures = chance.randrange(1, 3)
            view.retries = 4
        elif kind == "fails":
            failures = 1
        elif kind == "large":
            more["payload"] = bytes(chance.randrange(10_000, 200_000))
        elif kind == "prints":
            more["text"] = "x" * chance.randrange(1, 2000)
        tasks = [f"{self.name}-{self.count + i}" for i in range(count)]
        values = list(range(self.count, self.count + count))
        self.count += count
        if kind == "map":
            result = view.map_async(work, tasks, values, [seconds] * count, [0] * count, [self.folder] * count)
        else:
            result = view.apply_async(work, tasks[0], values[0], seconds, failures, self.folder, **more)
            tasks, values = tasks * len(result.msg_ids), values * len(result.msg_ids)
        # Of a coalescing broadcast there is one reply and one message id.
        for task, value, msg_id in zip(tasks, values, result.msg_ids):
            self.write(
                "submitted", task=task, value=2 * value, msg_id=msg_id, kind=kind, after=after, may_fail=kind == "fails"
            )
            self.unstored[msg_id] = False
        if kind not in ("direct", "broadcast"):
            self.recent = [*self.recent, *result.msg_ids][-20:]

    def abort(self, msg_id):
        self.write("aborting", msg_id=msg_id)
        self.client.abort(msg_id, block=False)

    def ask(self):
        """Which requests does the hub have?"""
        if not self.unstored:
            self.last_answer = time.monotonic()
            return
        some = self.chance.sample(sorted(self.unstored), min(len(self.unstored), 100))
        try:
            records = self.client.db_query({"msg_id": {"$in": some}}, keys=["msg_id", "completed"])
        except ipyparallel.error.RemoteError as error:
            self.write("refused", ename=error.ename, evalue=error.evalue[:200])
            return
        self.last_answer = time.monotonic()
        for record in records:
            msg_id = record["msg_id"]
            if not self.unstored.get(msg_id):
                self.write("accepted", msg_id=msg_id)
                self.unstored[msg_id] = True
            if record["completed"]:
                self.write("stored", msg_id=msg_id)
                del self.unstored[msg_id]

    def end(self, *_):
        self.ending = True


def main():
    file, folder, name, seed = sys.argv[1:]
    workload = Workload(file, folder, name, int(seed))
    signal.signal(signal.SIGTERM, workload.end)
    workload.run()
    os._exit(0)


if __name__ == "__main__":
    main()
