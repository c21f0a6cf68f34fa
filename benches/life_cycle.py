"""Times of a cluster's life, as medians: starting, stopping, the death of a kernel, and the commands that only look.

    IPCLUSTER_BIN=target/release/ipcluster python benches/life_cycle.py [rounds]

With `--stock`, ipyparallel's own ipcluster is measured. Both need ipyparallel in the Python that runs this.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ipyparallel
import ipyparallel.error
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


def death(client, engine):
    """Seconds from a kernel's death to the error of what it ran, and to the registration of the next one."""
    uuid, pid = client._engines[engine], client[engine].apply_sync(os.getpid)
    running = client[engine].execute("import time; print('begun', flush=True); time.sleep(600)")
    while "begun" not in running.stdout:
        time.sleep(0.01)
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    try:
        running.get(60)
        sys.exit("a kernel that was killed has answered")
    except ipyparallel.error.RemoteError:
        failed = time.perf_counter() - began
    # ipyparallel starts no other one.
    while not STOCK and client._engines.get(engine, uuid) == uuid:
        time.sleep(0.001)
    return failed, time.perf_counter() - began


def deaths(folder):
    """Each engine dies once: the first restart is the one that waits least."""
    env = {**os.environ, "IPYTHONDIR": folder, "VIRTUAL_ENV": sys.prefix}
    profile = Path(folder, "profile_default")
    profile.mkdir(exist_ok=True)
    (profile / "ipcluster.toml").write_text('[engine]\nrestart = "on-failure"\n')
    run(env, "start", "-n", str(ROUNDS), "--daemonize")
    try:
        client = ipyparallel.Client(profile_dir=str(profile), timeout=60)
        client.wait_for_engines(ROUNDS, timeout=60)
        found = [death(client, engine) for engine in client.ids]
        client.close()
    finally:
        run(env, "stop")
    return found


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
        failed, registered_again = zip(*deaths(folder), strict=True)
        show("kernel killed, to its EngineError", failed)
        if not STOCK:
            show("  to the next one's registration", registered_again)
        env = {**os.environ, "IPYTHONDIR": folder}
        for args in (["--version"], ["--help"], ["list"]):
            show(" ".join(args), [run(env, *args) for _ in range(3 * ROUNDS)])


if __name__ == "__main__":
    main()
