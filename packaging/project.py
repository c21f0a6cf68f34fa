"""What all packages have in common: folders, version, and the build that they are made of."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CARGO = os.environ.get("CARGO", "cargo")


def run(*command, **how):
    """Runs a command in the checkout; the program ends when it fails."""
    how = {"cwd": ROOT, **how}
    try:
        done = subprocess.run([str(word) for word in command], **how)
    except FileNotFoundError:
        fail(f"{command[0]} is not installed; packaging/README.md says what each package needs")
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))} failed with exit status {done.returncode}")
    return done.stdout


def fail(text):
    sys.exit(f"error: {text}")


@functools.cache
def metadata():
    """Cargo's view of the crate and of all that is linked into it on this machine."""
    text = run(
        CARGO, "metadata", "--locked", "--format-version=1", f"--filter-platform={host()}", stdout=subprocess.PIPE
    )
    return json.loads(text)


@functools.cache
def host():
    """The kind of machine, as Rust names it."""
    for line in run(CARGO, "-vV", stdout=subprocess.PIPE, text=True).splitlines():
        if line.startswith("host: "):
            return line.removeprefix("host: ")
    fail("`cargo -vV` names no host")


def version():
    found = metadata()
    (crate,) = (package for package in found["packages"] if package["id"] == found["resolve"]["root"])
    return crate["version"]


def build():
    """The release build. There is one for all packages."""
    run(CARGO, "build", "--release", "--locked")
    return Path(metadata()["target_directory"]) / "release" / "ipcluster"


def epoch():
    """Seconds since 1970 that everything in a package is dated with: the same commit gives the same archives."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    return int(run("git", "log", "-1", "--format=%ct", stdout=subprocess.PIPE, text=True))


WORK = ROOT / "target" / "packages"
TREE = WORK / "tree"
DIST = WORK / "dist"
