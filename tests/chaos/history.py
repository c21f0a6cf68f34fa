"""What happened in a run, one JSON object on each line: written by several processes, each into a file of its own.

    {"at": seconds of the machine's monotonic clock, "who": …, "what": …, …}

Clients (`what`):
  submitted {task, msg_id, value, kind, after: [msg_id], may_fail}    a request has been handed to the client
  accepted {msg_id}, stored {msg_id}    the hub has named the request; it has named its result
  replied {msg_id, ok, value or ename and evalue}    a reply has arrived
  stranded {msg_id}                     the client has made up a reply, because it heard that the engine has left
  aborting {msg_id}                     it was asked to be aborted
Kernels:
  begun {task}, done {task}             the function of a task
Nemesis:
  fault {name, …}, healed {name}        from … until
Auditor, when all faults are over and nothing is left to do:
  found {msg_id, completed, ok, value or ename}    what the hub has of a request in the end
  missing {msg_id}                      it has nothing
  leak {text}                           something that is left over
  end {text}                            a program that did not end as it should
"""

import json
import os
import time


class Writer:
    """Appends to a file such that a line that was written is there, however its process ends."""

    def __init__(self, path, who):
        self.who = who
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, what, **more):
        line = json.dumps({"at": time.monotonic(), "who": self.who, "what": what, **more})
        os.write(self.file, line.encode() + b"\n")


def number(value):
    """The number in what `client.work` returned: [number, payload], in a list if it was mapped."""
    return number(value[0]) if isinstance(value, list) else value


def read(folder):
    """All events of a run in the order of time. The last line of a process that was killed may be torn."""
    events = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
    return sorted(events, key=lambda event: event["at"])
