"""Installs the kernel's sources, which the engine sends, as the package `ipcluster_kernel`, and runs it.

Run as `python -c BOOTSTRAP MODE FD`. FD is the socket pair to the engine; its first message holds one frame, a JSON
object {module name: source}. MODE is `fork-server` or `spawn`.
"""

import sys

# Before anything that an old Python does not have; this file is valid Python 2.
if sys.version_info < (3, 8):
    sys.exit(
        "Python %d.%d (%s) is too old: engines need 3.8 or newer; name another Python with --python"
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )

import importlib.abc  # noqa: E402
import importlib.machinery  # noqa: E402
import json  # noqa: E402
import linecache  # noqa: E402
import os  # noqa: E402
import struct  # noqa: E402

PACKAGE = "ipcluster_kernel"


class EmbeddedSources(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the package's modules from memory, with their source at hand for tracebacks and `inspect`."""

    def __init__(self, sources):
        self.sources = sources

    def find_spec(self, fullname, path=None, target=None):
        package, _, module = fullname.partition(".")
        if package != PACKAGE or (module or "__init__") not in self.sources:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=not module)

    def get_source(self, fullname):
        return self.sources[fullname.partition(".")[2] or "__init__"]

    def exec_module(self, module):
        source = self.get_source(module.__name__)
        filename = "<%s>" % module.__name__
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        exec(compile(source, filename, "exec"), module.__dict__)


def read(fd, size):
    data = bytearray()
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            os._exit(1)
        data += part
    return bytes(data)


# Python 3.13 keeps this source under the name that all code from strings has, that of every apply among it.
linecache.cache.pop("<string>", None)

mode, fd = sys.argv[1], int(sys.argv[2])
(length,) = struct.unpack("<8xQ", read(fd, 16))
sys.meta_path.insert(0, EmbeddedSources(json.loads(read(fd, length))))

from ipcluster_kernel.main import run  # noqa: E402

run(mode, fd)
