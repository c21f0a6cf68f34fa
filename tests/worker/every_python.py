"""Runs these tests under every Python of this machine from 3.9 on, each with the packages of each of the kernel's modes.

    python3 tests/worker/every_python.py [--only 3.13] FOLDER

Pythons are looked for on PATH, among pyenv's, and in $PYTHONS (paths with colons between them). Their environments are
made in FOLDER and kept. What cannot be run is said: a Python that is not there, one that cannot make environments, a
package that does not install.
"""

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / "python_environment.py"
KINDS = ["plain", "ipython", "ipykernel", "ipyparallel"]
OLDEST = 9
NEWEST_KNOWN = 15


def candidates():
    yield from filter(None, os.environ.get("PYTHONS", "").split(":"))
    yield sys.executable
    folders = os.environ.get("PATH", "").split(os.pathsep)
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    folders += [str(version / "bin") for version in sorted(pyenv.glob("3.*"))]
    for folder in folders:
        for path in sorted(Path(folder).glob("python3.*")):
            if re.fullmatch(r"python3\.\d+", path.name):
                yield str(path)


def pythons():
    """{minor version of Python 3: the first interpreter that works and has it}"""
    found = {}
    for path in candidates():
        ask = [path, "-c", "import sys; print(*sys.version_info[:2])"]
        try:
            answer = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False)
        except OSError:
            continue
        # A shim of pyenv's for a version that is not chosen fails here.
        numbers = answer.stdout.split()
        if answer.returncode == 0 and numbers[0] == "3" and int(numbers[1]) >= OLDEST:
            found.setdefault(int(numbers[1]), path)
    return found


def run(minor, python, kind, folder):
    """How it went, in a word or two."""
    requirements = HERE / "requirements" / f"{kind}.txt"
    make = [python, str(ENVIRONMENT), str(folder / f"3.{minor}-{kind}"), str(requirements), f"3.{OLDEST}"]
    made = subprocess.run(make, stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode != 0:
        return "skipped: no environment could be made"
    tests = [made.stdout.strip(), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE)]
    done = subprocess.run(tests, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        return f"{done.stdout}\nFAILED"
    return done.stdout.strip().splitlines()[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a version, as 3.12; may be repeated")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    found = pythons()
    chosen = []
    for minor in range(OLDEST, max([NEWEST_KNOWN, *found]) + 1):
        version = f"3.{minor}"
        if options.only and version not in options.only:
            continue
        if minor not in found:
            print(f"Python {version}: skipped: there is none on this machine", flush=True)
            continue
        chosen += [(minor, found[minor], kind, options.folder) for kind in KINDS]
    failed = not chosen
    with ThreadPoolExecutor(os.cpu_count()) as at_once:
        for (minor, _, kind, _), result in zip(chosen, at_once.map(lambda one: run(*one), chosen)):
            print(f"Python 3.{minor}, {kind}: {result}", flush=True)
            failed |= result.endswith("FAILED")
    sys.exit(failed)


if __name__ == "__main__":
    main()
