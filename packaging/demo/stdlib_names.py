"""A cluster at work: parses every module of this Python's standard library on four engines.

    python stdlib_names.py IPCLUSTER

Starts `IPCLUSTER start -n 4 --profile=iptest`, maps a function over the modules with ipyparallel's own client, prints
what was found and how the work was spread, and stops the cluster. $IPYTHONDIR says where the profile goes.
"""

import collections
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import ipyparallel

ENGINES = 4
PROFILE = "--profile=iptest"


def names_in(path):
    """Runs on the engines: what a module is made of."""
    import ast
    import collections
    import os

    with open(path, "rb") as file:
        source = file.read()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        # The library's own tests hold files that must not parse.
        return {"engine": os.getpid(), "broken": 1}
    kinds = collections.Counter(type(node).__name__ for node in ast.walk(tree))
    names = collections.Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {
        "engine": os.getpid(),
        "lines": source.count(b"\n"),
        "functions": kinds["FunctionDef"] + kinds["AsyncFunctionDef"],
        "classes": kinds["ClassDef"],
        "names": dict(names),
    }


def modules():
    """Every module of the standard library, the largest first, so that no engine ends with a long one."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = [path for path in library.rglob("*.py") if "site-packages" not in path.parts]
    return sorted(map(str, found), key=lambda path: -Path(path).stat().st_size)


class Progress:
    """A bar on a terminal, a line for each tenth elsewhere."""

    def __init__(self, total):
        self.total = total
        self.begun = time.monotonic()
        self.shown = -1

    def show(self, done):
        seconds = time.monotonic() - self.begun
        if sys.stdout.isatty():
            filled = 40 * done // self.total
            print(f"\r  [{'#' * filled}{'.' * (40 - filled)}] {done}/{self.total}  {seconds:.1f} s", end="", flush=True)
            if done == self.total:
                print()
        elif 10 * done // self.total > self.shown:
            self.shown = 10 * done // self.total
            print(f"  {done:5}/{self.total} modules  {seconds:.1f} s", flush=True)


def work(client):
    paths = modules()
    print(f"parsing {len(paths)} modules of Python {sys.version.split()[0]} on {len(client)} engines")
    view = client.load_balanced_view()
    results = view.map(names_in, paths, chunksize=4, ordered=False)
    progress = Progress(len(paths))
    totals, names, spread = collections.Counter(), collections.Counter(), collections.Counter()
    for done, found in enumerate(results, 1):
        names.update(found.pop("names", {}))
        spread[found.pop("engine")] += 1
        totals.update(found)
        progress.show(done)
    print(
        f"\n{totals['lines']:,} lines, {totals['functions']:,} functions, {totals['classes']:,} classes;"
        f" {totals['broken']} files do not parse, as they should not"
    )
    print("\nmost-used names")
    widest = names.most_common(1)[0][1]
    for name, count in names.most_common(12):
        print(f"  {name:14} {count:7,}  {'*' * (40 * count // widest)}")
    print("\nmodules per engine")
    ids = dict(zip(client[:].apply_sync(kernel_pid), client.ids))
    for pid, count in sorted(spread.items(), key=lambda item: ids[item[0]]):
        print(f"  engine {ids[pid]}  {count:5}  {'*' * (40 * count // max(spread.values()))}")


def kernel_pid():
    import os

    return os.getpid()


def main():
    ipcluster = sys.argv[1]
    start = [ipcluster, "start", "-n", str(ENGINES), PROFILE, "--daemonize"]
    print(f"$ ipcluster {' '.join(start[1:])}", flush=True)
    subprocess.run(start, check=True)
    try:
        with ipyparallel.Client(profile="iptest") as client:
            work(client)
    finally:
        print(f"\n$ ipcluster stop {PROFILE}", flush=True)
        subprocess.run([ipcluster, "stop", PROFILE], check=True)


if __name__ == "__main__":
    main()
