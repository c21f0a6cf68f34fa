"""The real programs of one run: a controller with a database on a small disk, engines and clients behind links."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))

import programs  # noqa: E402
from programs import wait_until  # noqa: E402
from proxy import Link, a_loop  # noqa: E402

ENGINE_PROCESSES = 2
KERNELS = 2
CLIENTS = 3
DISK = "4g"
LIBFAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"


class Cluster:
    def __init__(self, folder, seed, write):
        self.chance = random.Random(f"cluster {seed}")
        self.write = write
        self.place = programs.Place(folder / "ipython")
        self.history = folder / "history"
        self.history.mkdir()
        self.disk = self._small_disk(folder / "disk")
        self.clock = self._clock(folder / "clock")
        loop = a_loop()
        self.engine_link, self.client_link = Link(loop), Link(loop)
        self.engine_file, self.client_file = folder / "engine.json", folder / "client.json"
        self.controller = None
        self.engines = [None] * ENGINE_PROCESSES
        self.clients = [None] * CLIENTS
        self.client_number = 0
        self.full = False
        # Since the controller was started.
        self.was_full = False

    def _small_disk(self, folder):
        """A disk that can be filled, or None where that is not allowed."""
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            return None
        return folder

    def _clock(self, file):
        """The file that says how far off the controller's clock is, or None without libfaketime."""
        found = sorted(Path("/").glob(LIBFAKETIME.lstrip("/")))
        if not found:
            return None
        file.write_text("+0\n")
        self.faketime = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
        return file

    # ---- starting and tending

    def start(self):
        self.start_controller()
        self.engine_link.through(self.place.engine_file(), self.engine_file)
        self.client_link.through(self.place.client_file(), self.client_file)
        self.tend(clients=False)

    def start_controller(self):
        location = self.disk or self.place.folder
        arguments = ["controller", "--sqlitedb", f"--SQLiteDB.location={location}", "--restore", "--ping=250"]
        environment = self.faketime if self.clock else {}
        self.was_full = self.full
        self.controller = self.place.start([programs.BINARY, *arguments], environment)
        try:
            self.controller.wait_for(r"\[ipcontroller\] controller \d+ listens on", timeout=30)
        except AssertionError as error:
            if self.full:
                # With no room for its database it says so and ends: that is as it should be.
                return False
            self.write("end", text=f"a controller that did not start: {error}")
        return True

    def tend(self, clients=True):
        """Starts again what has ended, as a user or a batch system would."""
        if not self.controller.is_running():
            code = self.controller.wait()
            if not self.full:
                # It may have been told to end while the disk was full: then it says what is not in the database.
                if code not in (0, -signal.SIGKILL, 1, 14 if self.was_full else 0):
                    self.write("end", text=f"the controller ended with {code}: {self.controller.output[-2000:]}")
                self.start_controller()
        for i, engines in enumerate(self.engines):
            if engines is None or not engines.is_running():
                if engines is not None and engines.wait() not in (0, 1, 13, -signal.SIGKILL):
                    self.write("end", text=f"engines ended with {engines.wait()}: {engines.output[-2000:]}")
                command = ["engine", "-n", KERNELS, "--file", self.engine_file, "--restart=on-failure"]
                self.engines[i] = self.place.ipcluster(*command, "--timeout=20")
        for i, client in enumerate(self.clients):
            if clients and (client is None or not client.is_running()):
                if client is not None and client.wait() not in (0, 3, -signal.SIGKILL):
                    self.write("client failed", text=client.output[-1000:])
                self.clients[i] = self.start_client()

    def start_client(self):
        self.client_number += 1
        name = f"client-{self.client_number}"
        command = [sys.executable, HERE / "client.py", self.client_file, self.history, name]
        return self.place.start([*command, self.chance.randrange(1 << 30)])

    # ---- what the nemesis can reach

    def kernels(self):
        """Processes of the kernels: the children of the fork servers."""
        found = []
        for engines in self.engines:
            if engines is not None and engines.is_running():
                with contextlib.suppress(psutil.Error):
                    for server in psutil.Process(engines.pid).children():
                        found += [kernel.pid for kernel in server.children()]
        return sorted(found)

    def running_engines(self):
        return [one for one in self.engines if one is not None and one.is_running()]

    def running_clients(self):
        return [one for one in self.clients if one is not None and one.is_running()]

    def limit_descriptors(self, spare):
        """Leaves the controller `spare` more file descriptors than it has; None lifts the limit."""
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(self.controller.pid)
            _, hard = process.rlimit(resource.RLIMIT_NOFILE)
            soft = hard if spare is None else min(hard, process.num_fds() + spare)
            process.rlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def fill_disk(self):
        """Takes away what is free."""
        disk = os.statvfs(self.disk)
        self._resize((disk.f_blocks - disk.f_bfree) * disk.f_frsize)
        self.full = self.was_full = True

    def empty_disk(self):
        self._resize(DISK)
        self.full = False

    def _resize(self, size):
        # What is written meanwhile can make it too small: then nothing is free either way.
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.disk)], capture_output=True, check=False)

    # ---- leaks

    def figures(self, program):
        process = psutil.Process(program.pid)
        sockets = [one for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
        return {"descriptors": process.num_fds(), "threads": process.num_threads(), "listening": len(sockets)}

    def settled_figures(self, program, expected=None):
        """When what was let go is closed; with `expected`, as soon as they are no more than that."""

        def as_expected():
            return all(value <= expected[name] for name, value in self.figures(program).items())

        if expected is not None:
            with contextlib.suppress(AssertionError):
                wait_until(as_expected, "no more than before", timeout=20)
        return self.figures(program)

    def close(self):
        self.place.close()
        if self.disk:
            subprocess.run(["umount", "-l", str(self.disk)], check=False)
