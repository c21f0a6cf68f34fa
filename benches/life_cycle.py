"""Times of a cluster's life, as medians: starting, stopping, and the commands that only look.

    IPCLUSTER_BIN=target/release/ipcluster python benches/life_cycle.py [rounds]

With `--stock`, ipyparallel's own ipcluster is measured. Both need ipyparallel in the Python that runs this.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import psutil

STOCK = "--stock" in sys.argv
ROUNDS = next((int(arg) for arg in sys.argv[1:] if arg.isdigit()), 7)
BINARY = os.environ.get("IPCLUSTER_BIN", "target/release/ipcluster")
PROGRAM = [sys.executable, "-m", "ipyparallel.cluster"] if STOCK else [BINARY]


def run(env, *args):
    began = time.perf_counter()
    subprocess.run(
        [*PROGRAM, *args],
        env=env,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def runs(process):
    """A zombie does not: how soon it goes depends on the parent that it has left."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes(folder):
    found = []
    for process in psutil.process_iter():
        try:
            if runs(process) and process.environ().get("IPYTHONDIR") == folder:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def registered(folder, n):
    """Until a client sees n engines."""
    import ipyparallel

    client = ipyparallel.Client(profile_dir=f"{folder}/profile_default", timeout=60)
    client.wait_for_engines(n, timeout=60)
    client.close()


def life(folder, n):
    """Seconds to n registered engines, to the end of `stop`, and until every process is gone."""
    env = {**os.environ, "IPYTHONDIR": folder, "VIRTUAL_ENV": sys.prefix}
    began = time.perf_counter()
    run(env, "start", "-n", str(n), "--daemonize")
    if STOCK:
        # It returns before its engines are there.
        registered(folder, n)
    started = time.perf_counter() - began
    count = processes(folder)
    began = time.perf_counter()
    stopped = run(env, "stop")
    while any(map(runs, count)):
        time.sleep(0.001)
    return started, stopped, time.perf_counter() - began


def show(name, seconds):
    times = ", ".join(f"{value * 1000:.0f}" for value in sorted(seconds))
    print(f"{name:40} {statistics.median(seconds) * 1000:8.1f} ms   of {times}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        for n in (4, 16):
            lives = [life(folder, n) for _ in range(ROUNDS)]
            for name, values in zip(
                (f"start -n {n}", "  stop returns", "  all processes gone"),
                zip(*lives, strict=True),
                strict=True,
            ):
                show(name, values)
        env = {**os.environ, "IPYTHONDIR": folder}
        for args in (["--version"], ["--help"], ["list"]):
            show(" ".join(args), [run(env, *args) for _ in range(3 * ROUNDS)])


if __name__ == "__main__":
    main()
