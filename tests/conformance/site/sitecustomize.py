"""Puts this project's programs in the place of ipyparallel's, in every Python that has this folder on PYTHONPATH.

Every program that ipyparallel's tests start has an argv of the form `PYTHON -m ipyparallel.NAME ARGS`. For the names
in $IPCLUSTER_REPLACES (commas between them), `$IPCLUSTER_BIN NAME ARGS` is started instead.
"""

import os
import subprocess

REPLACED = [name for name in os.environ.get("IPCLUSTER_REPLACES", "").split(",") if name]


def rewritten(args):
    if not isinstance(args, (list, tuple)) or len(args) < 3 or args[1] != "-m":
        return args
    package, _, name = str(args[2]).partition(".")
    if package != "ipyparallel" or name not in REPLACED:
        return args
    verb = [] if name == "cluster" else [name]
    return [os.environ["IPCLUSTER_BIN"], *verb, *args[3:]]


if REPLACED:
    original = subprocess.Popen.__init__

    def __init__(self, args, *rest, **named):
        original(self, rewritten(args), *rest, **named)

    subprocess.Popen.__init__ = __init__
