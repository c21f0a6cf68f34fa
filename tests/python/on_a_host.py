"""A client on one of several hosts: submits tasks that take a while, and says what became of them.

    python on_a_host.py ENGINES CONNECTION_FILE JOURNAL TASKS

Every task writes a line to the journal when it runs. Prints `submitted`, and at the end a document.
"""

import json
import sys

import ipyparallel


def task(journal, name):
    import os
    import socket
    import time

    time.sleep(0.2)
    with open(journal, "a") as file:
        file.write(f"{name}\n")
    return [name, socket.gethostname(), os.getpid()]


engines, connection_file, journal, tasks = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
with ipyparallel.Client(connection_file, timeout=60) as client:
    client.wait_for_engines(engines, timeout=60)
    before = sorted(client.ids)
    balanced = client.load_balanced_view()
    balanced.hwm = 1
    results = [balanced.apply_async(task, journal, f"balanced {number}") for number in range(tasks)]
    results += [client[id].apply_async(task, journal, f"direct {id}") for id in before]
    print("submitted", flush=True)
    found = [result.get(180) for result in results]
    document = {
        "before": before,
        "after": sorted(client.ids),
        "names": [name for name, _, _ in found],
        "hosts": sorted({host for _, host, _ in found}),
        "kernels": len({pid for _, _, pid in found}),
    }
    print(json.dumps(document), flush=True)
