"""The task database under a real cluster: what survives the controller's death, and what users see of faults."""

import os
import random
import sys
import time
from pathlib import Path

import pytest
from ipyparallel import error
from programs import GENEROUS, wait_until

# How often the controller is killed in one test; many more in the long run.
KILLS = int(os.environ.get("IPCLUSTER_TEST_KILLS", "5"))


def get(result):
    return result.get(timeout=GENEROUS)


# ---- a controller that is killed


class Promises:
    """What a client was told before the controller died."""

    def __init__(self):
        self.values = {}
        self.stored = set()

    def note(self, lines):
        for line in lines:
            match line.split():
                case ["accepted", msg_id, value]:
                    self.values[msg_id] = int(value)
                case ["stored", msg_id]:
                    self.stored.add(msg_id)

    def check_stored(self, client):
        """Every result that was stored is there at once."""
        status = client.result_status(list(self.stored), status_only=True)
        assert set(status["completed"]) == self.stored

    def check_all(self, client, msg_ids):
        """Every request that was accepted has its result, sooner or later."""
        msg_ids = sorted(msg_ids)
        results = client.get_result(msg_ids, block=False, owner=False)
        assert get(results) == [self.values[msg_id] for msg_id in msg_ids]


def test_kills_at_random_moments_lose_nothing(place):
    seed = int(os.environ.get("IPCLUSTER_TEST_SEED") or time.time_ns() % 1_000_000)
    print("seed", seed)
    chance = random.Random(seed)
    how = ("--sqlitedb", "--restore", "--log-level=INFO")
    controller = place.controller(*how)
    place.engines(2)
    promises, finished, value = Promises(), set(), 0
    script = Path(__file__).with_name("submits_until_killed.py")
    for _ in range(KILLS):
        submitter = place.start([sys.executable, script, place.client_file(), value, chance.randrange(1 << 30)])
        submitter.wait_for("^stored")
        time.sleep(chance.uniform(0, 1.5))
        controller.kill()
        submitter.kill()
        promises.note(submitter.lines)
        value += 1_000_000

        controller = place.controller(*how)
        client = place.client(2)
        promises.check_stored(client)
        new = set(promises.values) - finished
        assert new
        promises.check_all(client, new)
        finished |= new
        client.close()
    client = place.client(2)
    promises.check_all(client, promises.values)
    assert client.db_query({"completed": None}, keys=["msg_id"]) == []
    print(f"{len(promises.values)} requests were accepted, {len(promises.stored)} results stored")
