"""Prints which packages that matter to engines this Python has."""

import json
import sys


def version(name):
    try:
        from importlib import metadata

        return metadata.version(name)
    except Exception:
        return None


found = {
    "python": list(sys.version_info[:2]),
    "ipyparallel": version("ipyparallel"),
    "ipython": version("ipython"),
    "ipykernel": version("ipykernel"),
    "error": None,
}
if found["ipyparallel"]:
    try:
        import ipyparallel  # noqa: F401
    except BaseException as error:
        found["error"] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(found))
