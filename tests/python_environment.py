"""Makes a virtual environment inside the checkout, and installs a requirements file into it. Needs Python alone.

    python3 tests/python_environment.py FOLDER REQUIREMENTS [OLDEST]

Needs Python OLDEST (3.10, as ipyparallel 9.2 does) or newer. Does nothing when the folder has been made from the same
requirements by the same Python before. Prints the path of the environment's interpreter; everything else goes to stderr.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

# ipyparallel 9.2 takes no older one.
OLDEST = (3, 10)
STAMP = "made-from"


def make(folder, requirements, oldest=OLDEST):
    """The interpreter of the environment in `folder`, which is made first when it is missing or out of date."""
    folder = Path(folder).absolute()
    python = folder / "bin" / "python"
    stamp = folder / STAMP
    wanted = f"{sys.version}\n{hashlib.sha256(Path(requirements).read_bytes()).hexdigest()}\n"
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python

    if sys.version_info < oldest:
        fail(
            f"Python {sys.version.split()[0]} at {sys.executable} is too old: the tests need "
            f"{oldest[0]}.{oldest[1]} or newer; name another one: make PYTHON=/path/to/python3 ..."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        fail(
            f"Python at {sys.executable} cannot make virtual environments ({error}); on Debian and its like: "
            "apt-get install python3-venv"
        )
    say(f"making a Python environment in {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    # What runs this may be the environment that has just been removed: its Python is the one that it was made with.
    made_with = getattr(sys, "_base_executable", None) or sys.executable
    run([made_with, "-m", "venv", str(folder)], "the virtual environment could not be made")
    run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)],
        "the packages could not be installed; is the package index reachable?",
    )
    stamp.write_text(wanted)
    return python


def run(command, failure):
    # pip's words belong on stderr as well: stdout holds the answer.
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        fail(f"{failure} ({' '.join(command)})")


def say(text):
    print(text, file=sys.stderr, flush=True)


def fail(text):
    say(f"error: {text}")
    sys.exit(1)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        fail("usage: python_environment.py FOLDER REQUIREMENTS [OLDEST]")
    oldest = (tuple(int(part) for part in one.split(".")) for one in sys.argv[3:])
    print(make(*sys.argv[1:3], *oldest))
