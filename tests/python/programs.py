"""Starts the real programs for a test, watches what they write, and makes sure that nothing of them remains."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import ipyparallel
import psutil

CHECKOUT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("IPCLUSTER_BIN") or CHECKOUT / "target/debug/ipcluster").absolute()

# Seconds in which whatever a test waits for has to happen. Only a failing test takes so long.
GENEROUS = 60

# In the environment of every process that a test starts, and so of all that those start.
MARK = "IPCLUSTER_TEST_RUN"


def wait_until(condition, what, timeout=GENEROUS):
    """Waits for a condition that nothing announces, and returns its value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {timeout} s"
        time.sleep(0.01)
    return value


class Program:
    """A running program whose output is read line by line as it comes."""

    def __init__(self, command, environment, **how):
        self.command = [str(word) for word in command]
        self.lines = []
        self.news = threading.Condition()
        self.ended = False
        self.process = subprocess.Popen(
            self.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            **how,
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line.rstrip("\n"))
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    @property
    def pid(self):
        return self.process.pid

    @property
    def output(self):
        with self.news:
            return "\n".join(self.lines)

    def is_running(self):
        return self.process.poll() is None

    def wait_for(self, pattern, timeout=GENEROUS, after=0):
        """The match of the first line that matches, from line number `after` on."""
        regex = re.compile(pattern)
        deadline = time.monotonic() + timeout
        seen = after
        with self.news:
            while True:
                for line in self.lines[seen:]:
                    if match := regex.search(line):
                        return match
                seen = max(seen, len(self.lines))
                left = deadline - time.monotonic()
                why = "ended" if self.ended else f"went on for {timeout} s" if left <= 0 else None
                if why:
                    text = "\n".join(self.lines)
                    raise AssertionError(f"{self.command[:3]} {why} without writing {pattern!r}:\n{text}")
                self.news.wait(left)

    def wait(self, timeout=GENEROUS):
        """Its exit code, once it has ended and everything it wrote is read."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} still runs after {timeout} s:\n{self.output}") from None
        # A child that outlives it may hold the pipe open: that is for the check of what remains.
        self.reader.join(5)
        return code

    def send_signal(self, number):
        self.process.send_signal(number)

    def stop(self, number=signal.SIGTERM, timeout=GENEROUS):
        """Tells it to end, and returns its exit code."""
        if self.is_running():
            self.send_signal(number)
        return self.wait(timeout)

    def kill(self):
        if self.is_running():
            self.process.kill()
        return self.wait()


class Place:
    """An IPython folder of a test's own, and the programs that run on it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.mark = uuid.uuid4().hex
        self.programs = []
        self.clients = []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("IPP_")}
        self.environment = {
            **inherited,
            MARK: self.mark,
            "IPYTHONDIR": str(self.folder),
            # Functions of a test's module are sent by the module's name, and looked up there by the engine.
            "PYTHONPATH": str(Path(__file__).parent),
            "VIRTUAL_ENV": sys.prefix,
            "PATH": os.pathsep.join([os.path.join(sys.prefix, "bin"), os.environ.get("PATH", os.defpath)]),
        }

    # ---- programs

    def start(self, command, environment=None, **how):
        """Starts any program, which is stopped at the test's end if it still runs then."""
        program = Program(command, {**self.environment, **(environment or {})}, **how)
        self.programs.append(program)
        return program

    def ipcluster(self, *arguments, **how):
        return self.start([BINARY, *arguments], **how)

    def run(self, *arguments, timeout=GENEROUS, **how):
        """Runs ipcluster to its end: (exit code, what it wrote)."""
        program = self.ipcluster(*arguments, **how)
        return program.wait(timeout), program.output

    def controller(self, *arguments, profile="default", **how):
        """A controller that listens, and whose connection files are there."""
        program = self.ipcluster("controller", f"--profile={profile}", *arguments, **how)
        program.wait_for(r"\[ipcontroller\] controller \d+ listens on")
        return program

    def engines(self, n=1, *arguments, profile="default", **how):
        """Engines that run, in one process."""
        program = self.ipcluster("engine", "-n", n, f"--profile={profile}", *arguments, **how)
        wait_until(lambda: len(running_engines(program)) >= n or program.ended, f"{n} running engines")
        assert len(running_engines(program)) >= n, program.output
        return program

    # ---- files

    def profile_dir(self, profile="default"):
        return self.folder / f"profile_{profile}"

    def client_file(self, profile="default", cluster_id=""):
        return self.connection_file("client", profile, cluster_id)

    def engine_file(self, profile="default", cluster_id=""):
        return self.connection_file("engine", profile, cluster_id)

    def connection_file(self, side, profile, cluster_id):
        infix = f"-{cluster_id}" if cluster_id else ""
        return self.profile_dir(profile) / "security" / f"ipcontroller{infix}-{side}.json"

    def connection(self, **which):
        return json.loads(self.client_file(**which).read_text())

    # ---- clients

    def client(self, n=0, **which):
        """A stock client, with at least `n` engines."""
        client = ipyparallel.Client(str(self.client_file(**which)), timeout=GENEROUS)
        self.clients.append(client)
        if n:
            # Its own wait_for_engines looks first and listens then: it can miss the last one, and waits until its time is up.
            wait_until(lambda: len(client.ids) >= n, f"{n} engines")
        return client

    # ---- the end

    def remaining(self):
        """Processes of this place, whoever started them, that have not ended."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def close(self):
        """Ends everything. Fails when a program does not end when told to, or leaves processes behind."""
        for client in self.clients:
            with contextlib.suppress(Exception):
                client.close()
        wrong = []
        for program in reversed(self.programs):
            try:
                program.stop()
            except AssertionError as error:
                wrong.append(str(error))
                program.kill()
        try:
            wait_until(lambda: not self.remaining(), "the end of all processes", timeout=20)
        except AssertionError:
            for process in self.remaining():
                with contextlib.suppress(psutil.Error):
                    wrong.append(f"left running: {process.pid} {' '.join(process.cmdline())[:200]}")
                    process.kill()
        assert not wrong, "\n".join(wrong)


@contextlib.contextmanager
def a_place(folder):
    place = Place(folder)
    try:
        yield place
    finally:
        place.close()


def running_engines(program):
    """Ids of the engines of a process, ours or ipyparallel's, that are registered."""
    return [int(found) for found in re.findall(r"Completed registration with id (\d+)", program.output)]


def children(pid):
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []
