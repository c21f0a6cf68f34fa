"""Submits requests of all kinds and tells on stdout which of them the hub says it has, until it is killed.

    accepted MSG_ID VALUE    the hub knows the request, whose result is to be VALUE
    stored MSG_ID            the hub has the result

Run by the tests of the task database: CONNECTION_FILE FIRST_VALUE SEED.
"""

import random
import sys

import ipyparallel


def double(value, seconds):
    import time

    time.sleep(seconds)
    return 2 * value


def main(file, value, seed):
    chance = random.Random(seed)
    client = ipyparallel.Client(file, timeout=60)
    client.wait_for_engines(2, timeout=60, interactive=False)
    balanced = client.load_balanced_view()
    expected, unfinished, tasks = {}, [], []
    while True:
        for _ in range(chance.randrange(1, 20)):
            seconds = chance.choice([0, 0, 0, 0, 0.01, 0.1])
            if chance.random() < 0.3:
                view = client[chance.choice(client.ids)]
            elif chance.random() < 0.3 and tasks:
                view = client.load_balanced_view()
                view.after = [chance.choice(tasks)]
            else:
                view = balanced
            result = view.apply_async(double, value, seconds)
            expected[result.msg_ids[0]] = 2 * value
            unfinished.append(result.msg_ids[0])
            if view.__class__ is balanced.__class__:
                tasks.append(result.msg_ids[0])
            value += 1
        for msg_id in list(unfinished):
            try:
                status = client.result_status(msg_id, status_only=True)
            except ipyparallel.error.RemoteError:
                # It is still on its way.
                continue
            if msg_id in expected:
                print("accepted", msg_id, expected.pop(msg_id), flush=True)
            if msg_id in status["completed"]:
                unfinished.remove(msg_id)
                print("stored", msg_id, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
