"""What tests need to run somebody else's server: its programs, in the foreground, with a folder for all that they write."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
PATIENCE = 60


def missing(*commands):
    """Those that this machine has not got."""
    return [name for name in commands if not shutil.which(name, path=PATH)]


class Server:
    """Programs that make up one server. `logs` are the patterns of the files that say why it does not get ready."""

    def __init__(self, folder, environment, logs):
        self.folder = folder
        self.environment = environment
        self.logs = ("*.out", *logs)
        self.running = []

    def start(self, *command):
        name = os.path.basename(command[0])
        with (self.folder / f"{name}.out").open("wb") as output:
            process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.running.append(process)

    def wait_until(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.running):
                raise RuntimeError(f"the server does not get ready:\n{self.said()}")
            time.sleep(0.02)

    def said(self):
        paths = [path for pattern in self.logs for path in self.folder.glob(pattern)]
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in paths)

    def end(self):
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.running):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def server(folder, environment, *logs):
    """A server without a program yet, whose programs all end with the block."""
    server = Server(folder, environment, logs)
    try:
        yield server
    finally:
        server.end()
