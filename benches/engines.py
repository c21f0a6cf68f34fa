"""What engines cost, ours and ipyparallel's in turn, seen by the same ipyparallel client.

    IPCLUSTER_BIN=target/release/ipcluster python benches/engines.py [--rounds N] [--engines N] [--only ours|stock]

Both need ipyparallel in the Python that runs this. A machine that others use as well tells only the ratios, which are
of medians over the rounds.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time

import ipyparallel
import numpy
import psutil
import zmq

BINARY = os.environ.get("IPCLUSTER_BIN", "target/release/ipcluster")
PROGRAMS = {"ours": [BINARY], "stock": [sys.executable, "-m", "ipyparallel.cluster"]}
LIMIT = 120

MEGABYTE = 1 << 20
LARGE = 100 * MEGABYTE
MEDIUM = 10 * MEGABYTE


def nothing():
    """What is applied."""


# The kernels need not import this file.
nothing.__module__ = "__main__"


class Cluster:
    def __init__(self, kind, folder, n):
        self.kind, self.folder, self.n = kind, folder, n
        self.env = {**os.environ, "IPYTHONDIR": folder, "VIRTUAL_ENV": sys.prefix}
        self.run("start", "-n", str(n), "--daemonize")
        self.client = ipyparallel.Client(profile_dir=f"{folder}/profile_default", timeout=LIMIT)
        self.client.wait_for_engines(n, timeout=LIMIT, interactive=False)

    def run(self, *args):
        done = subprocess.run(
            [*PROGRAMS[self.kind], *args], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode != 0:
            sys.exit(f"{self.kind}: {args} failed:\n{done.stdout}{done.stderr}")

    def processes(self):
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("IPYTHONDIR") == self.folder and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def engine_processes(self):
        """Those of the engines: with their kernels, and what watches over them."""
        found = {}
        for process in self.processes():
            # `ipcluster engine …`, and `python -m ipyparallel.engine …`
            if any(word == "engine" or word == "ipyparallel.engine" for word in process.cmdline()[:4]):
                for one in (process, *process.children(recursive=True)):
                    found[one.pid] = one
        return list(found.values())

    def cpu(self):
        """Seconds of processor time that the engines have used so far."""
        total = 0.0
        for process in self.engine_processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self, processes):
        """Bytes, those that are shared divided among those that share them."""
        return sum(process.memory_full_info().pss for process in processes)

    def close(self):
        self.client.close()
        self.run("stop")
        gone, alive = psutil.wait_procs(self.processes(), timeout=LIMIT)
        assert not alive, alive


def seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def median_of(count, call):
    return statistics.median(seconds(call) for _ in range(count))


ANSWERER = """
import sys, numpy, zmq
socket = zmq.Context().socket(zmq.DEALER)
socket.connect(sys.argv[1])
payload = numpy.random.default_rng(0).random(int(sys.argv[2]) // 8)
while socket.recv():
    socket.send(payload, copy=False)
"""


def hop_of_libzmq(size):
    """Seconds from a small message to one of `size` bytes that answers it: what no client of libzmq can do without."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        other = subprocess.Popen([sys.executable, "-c", ANSWERER, f"tcp://127.0.0.1:{port}", str(size)])

        def hop():
            socket.send(b"go")
            socket.recv(copy=False)

        try:
            hop()
            return median_of(9, hop)
        finally:
            socket.send(b"")
            other.wait()


def cpu_per_request(cluster, count, send):
    """Microseconds of the engines' time for each of many requests to one of them."""
    for result in [send() for _ in range(50)]:
        result.get(LIMIT)
    before = cluster.cpu()
    for _ in range(count // 100):
        # In batches: a client that is far ahead slows itself down.
        for result in [send() for _ in range(100)]:
            result.get(LIMIT)
    return (cluster.cpu() - before) / count * 1e6


def measure(cluster):
    """{what: value}"""
    client = cluster.client
    one, balanced = client[0], client.load_balanced_view()
    found = {}
    # Before anything has run.
    engines, family = cluster.engine_processes(), cluster.processes()
    found["processes"] = len(family)
    found["memory of all, MB"] = cluster.memory(family) / 1e6
    found["memory per idle engine, MB"] = cluster.memory(engines) / cluster.n / 1e6

    found["engine CPU per apply, us"] = cpu_per_request(cluster, 2000, lambda: one.apply_async(nothing))
    found["engine CPU per execute, us"] = cpu_per_request(cluster, 1000, lambda: one.execute("pass"))
    found["dview.apply_sync p50, ms"] = median_of(300, lambda: one.apply_sync(nothing)) * 1e3
    found["lview.apply_sync p50, ms"] = median_of(300, lambda: balanced.apply_sync(nothing)) * 1e3
    found["execute p50, ms"] = median_of(200, lambda: one.execute("pass").get(LIMIT)) * 1e3

    large = numpy.random.default_rng(0).random(LARGE // 8)
    found["push 100 MB, MB/s"] = 100 / median_of(9, lambda: one.push({"large": large}, block=True))
    found["pull 100 MB, MB/s"] = 100 / median_of(9, lambda: one.pull("large", block=True))
    found["the client's libzmq alone, MB/s"] = 100 / hop_of_libzmq(LARGE)

    everyone = client.broadcast_view(is_coalescing=True)
    medium = large[: MEDIUM // 8].copy()
    total = 10 * cluster.n
    found[f"broadcast of 10 MB to {cluster.n}, MB/s"] = total / median_of(
        5, lambda: everyone.push({"medium": medium}, block=True)
    )
    assert all((got == medium).all() for got in client[:].pull("medium", block=True)[:2])
    return found


BETTER_IF_MORE = "MB/s"


def show(results):
    print(f"{'':40}" + "".join(f"{kind:>12}" for kind in results) + ("      times as good" if len(results) == 2 else ""))
    for what in next(iter(results.values()))[0]:
        values = {kind: statistics.median(found[what] for found in rounds) for kind, rounds in results.items()}
        line = f"{what:40}" + "".join(f"{value:12.1f}" for value in values.values())
        if len(values) == 2 and values["ours"] > 0:
            ratio = values["stock"] / values["ours"]
            line += f"{1 / ratio if what.endswith(BETTER_IF_MORE) else ratio:19.1f}"
        print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--only", choices=PROGRAMS)
    options = parser.parse_args()
    results = {kind: [] for kind in ([options.only] if options.only else PROGRAMS)}
    for _ in range(options.rounds):
        for kind, rounds in results.items():
            with tempfile.TemporaryDirectory() as folder:
                cluster = Cluster(kind, folder, options.engines)
                try:
                    rounds.append(measure(cluster))
                finally:
                    cluster.close()
    show(results)


if __name__ == "__main__":
    main()
