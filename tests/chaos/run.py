"""Chaos: a real cluster under real clients, faults drawn from a seed, and a checker that judges what happened.

    python tests/chaos/run.py [--seconds 60] [--seed N] [--folder FOLDER] [--only FAULT …]

Exit code 1 and the history's folder when something is wrong. The same seed brings the same faults at the same times;
what they meet is the machine's.
"""

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "python"))

import ipyparallel  # noqa: E402
from ipyparallel.serialize import deserialize_object  # noqa: E402

import checker  # noqa: E402
import history  # noqa: E402
from cluster import Cluster  # noqa: E402
from nemesis import Nemesis, pause  # noqa: E402
from programs import wait_until  # noqa: E402

# Seconds in which everything has to be through when all is well again.
PATIENCE = 120


def main():
    options = arguments()
    if options.judge:
        return report(options, Path(options.judge), *checker.check(history.read(Path(options.judge) / "history")))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(exist_ok=True)
    print(f"seed {options.seed}, {options.seconds:g} s, {folder}", flush=True)
    report(options, folder, *run(folder, options))
    if not options.folder:
        shutil.rmtree(folder)


def report(options, folder, wrong, figures):
    print(json.dumps({"seed": options.seed, "seconds": options.seconds, **figures}, indent=2))
    for text in wrong[:100]:
        print("wrong:", text)
    if wrong:
        sys.exit(f"{len(wrong)} things are wrong; the history is in {folder}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--folder", help="where everything is kept; else in /tmp, until all is well")
    parser.add_argument("--judge", metavar="FOLDER", help="judge what was kept of an earlier run, and run nothing")
    parser.add_argument("--only", action="append", choices=list(Nemesis.FAULTS), help="these faults alone")
    return parser.parse_args()


def run(folder, options):
    """(what is wrong, figures)"""
    (folder / "ipython").mkdir()
    early = folder / "nemesis.jsonl"
    write = history.Writer(early, "nemesis")
    cluster = Cluster(folder, options.seed, write)
    try:
        cluster.start()
        fresh = measure(cluster)
        torment(cluster, options, write)
        settle(cluster, write)
        audit(cluster, write)
        look_for_leaks(cluster, fresh, write)
    finally:
        try:
            cluster.close()
        except AssertionError as error:
            write("end", text=str(error))
        early.rename(folder / "history" / "nemesis.jsonl")
        keep_outputs(cluster, folder)
    return checker.check(history.read(folder / "history"))


def keep_outputs(cluster, folder):
    for number, program in enumerate(cluster.place.programs):
        (folder / f"output-{number}-{Path(program.command[1]).name}.txt").write_text(program.output)


def connect(cluster):
    return ipyparallel.Client(str(cluster.place.client_file()), timeout=PATIENCE)


def all_engines_are_there(cluster, client):
    wait_until(lambda: len(client.ids) == len(cluster.kernels()) == 4, "all engines", timeout=PATIENCE)


def measure(cluster):
    """What a controller has open that has served a client and has none."""
    wait_until(lambda: len(cluster.kernels()) == 4, "all kernels", timeout=PATIENCE)
    client = connect(cluster)
    all_engines_are_there(cluster, client)
    assert client[:].apply_sync(abs, -1) == [1] * 4
    client.load_balanced_view().map_sync(abs, range(20))
    client.db_query({}, keys=["msg_id"])
    # The thread that looks tasks up in the records opens the file when it is first asked.
    view = client.load_balanced_view()
    view.after = ["nobody's"]
    view.apply_async(abs, -1).wait(PATIENCE)
    with_client = cluster.figures(cluster.controller)
    client.close()
    wait_until(lambda: cluster.figures(cluster.controller)["descriptors"] < with_client["descriptors"], "the client's end")
    return {"controller": cluster.figures(cluster.controller), "engines": cluster.figures(cluster.engines[0])}


def torment(cluster, options, write):
    chance = random.Random(f"nemesis {options.seed}")
    nemesis = Nemesis(cluster, chance, write)
    if options.only:
        nemesis.FAULTS = {name: nemesis.FAULTS[name] for name in options.only}
    write("began", seed=options.seed)
    cluster.tend()
    begin = time.monotonic()
    next_step = begin + 2
    while (now := time.monotonic()) < begin + options.seconds:
        cluster.tend()
        nemesis.heal_due(now)
        if now >= next_step:
            nemesis.step(now)
            next_step = now + pause(chance)
        time.sleep(0.02)
    nemesis.heal_all()


def settle(cluster, write):
    """Clients end in order, and all that is queued runs."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        cluster.tend()
        time.sleep(0.1)
    clients = cluster.running_clients()
    for client in clients:
        client.send_signal(signal.SIGTERM)
    for client in clients:
        code = client.wait(PATIENCE)
        if code != 0:
            write("client failed", code=code, text=client.output[-1000:])


def audit(cluster, write):
    """Asks a fresh client for everything that anybody submitted."""
    cluster.tend(clients=False)
    client = connect(cluster)
    all_engines_are_there(cluster, client)

    def is_through():
        status = client.queue_status()
        return status.pop("unassigned") == 0 and all(
            one["queue"] == one["tasks"] == 0 for name, one in status.items() if isinstance(name, int)
        )

    try:
        wait_until(is_through, "the end of all tasks", timeout=PATIENCE)
    except AssertionError:
        write("end", text=f"tasks that never end: {client.queue_status(verbose=True)}"[:2000])
    wait_until(lambda: not client.queue_status().get("database"), "a healthy database", timeout=PATIENCE)
    events = history.read(cluster.history)
    submitted = [event["msg_id"] for event in events if event["what"] == "submitted"]
    # Requests for an engine that a restored controller still expects are not among those that engines have.
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not unfinished(client, submitted), "the end of all requests", timeout=PATIENCE)
    keys = ["msg_id", "completed", "result_content", "result_buffers"]
    for start in range(0, len(submitted), 100):
        some = submitted[start : start + 100]
        records = {record["msg_id"]: record for record in client.db_query({"msg_id": {"$in": some}}, keys=keys)}
        for msg_id in some:
            if msg_id not in records:
                write("missing", msg_id=msg_id)
                continue
            write("found", msg_id=msg_id, **outcome(records[msg_id]))
    client.close()
    write("audited", requests=len(submitted))


def unfinished(client, submitted):
    some = {"msg_id": {"$in": submitted}, "completed": None}
    return client.db_query(some, keys=["msg_id"])


def outcome(record):
    if not record["completed"]:
        return {"completed": False, "ok": True}
    content = record["result_content"]
    if content["status"] != "ok":
        return {"completed": True, "ok": False, "ename": content.get("ename"), "evalue": str(content.get("evalue"))[:200]}
    values, buffers = [], list(record["result_buffers"])
    while buffers:
        value, buffers = deserialize_object(buffers)
        values.append(history.number(value))
    return {"completed": True, "ok": True, "value": values if len(values) > 1 else values[0]}


def look_for_leaks(cluster, fresh, write):
    """What is open with no client but more than when nothing had happened; what is there when all has ended."""
    for name, program in [("controller", cluster.controller), *(("engines", one) for one in cluster.engines)]:
        now = cluster.settled_figures(program, fresh[name])
        write("open", name=name, **now)
        for kind, count in now.items():
            if count > fresh[name][kind]:
                write("leak", text=f"{name}: {count} {kind} in place of {fresh[name][kind]}")
    for program in [*cluster.engines, cluster.controller]:
        program.send_signal(signal.SIGTERM)
        if (code := program.wait()) != 0:
            write("end", text=f"{program.command[1]} ended with {code}: {program.output[-2000:]}")
    for process in cluster.place.remaining():
        write("leak", text=f"process {process.pid} {process.cmdline()[:5]}")
    profile = cluster.place.profile_dir()
    # The connection files stay for the next controller that restores.
    for path in (profile / "pid").rglob("*"):
        if path.is_file():
            write("leak", text=f"file {path.relative_to(profile)}")


if __name__ == "__main__":
    main()
