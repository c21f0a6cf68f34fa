"""Faults, each with how it is brought about and how it is healed. What comes when is drawn from the seed."""

import contextlib
import os
import signal
import threading
import time


def send(program_or_pid, number):
    with contextlib.suppress(ProcessLookupError):
        if isinstance(program_or_pid, int):
            os.kill(program_or_pid, number)
        elif program_or_pid.is_running():
            program_or_pid.send_signal(number)


class Nemesis:
    """Calls faults down on a cluster: `step` after `step`, two of them at a time at most."""

    def __init__(self, cluster, chance, write):
        self.cluster, self.chance, self.write = cluster, chance, write
        # [when it is over, name, what heals it]
        self.under_way = []
        self.counts = {}

    FAULTS = {
        # name: (how often, longest time in seconds)
        "kernel killed": (4, 0),
        "engines killed": (2, 0),
        "engines flap": (1, 3),
        "kernel stopped": (2, 3),
        "engines stopped": (2, 4),
        "controller stopped": (2, 3),
        "controller killed": (2, 0),
        "controller ended": (1, 0),
        "client killed": (2, 0),
        "client stopped": (2, 5),
        "engines' link down": (2, 3),
        "engines' link broken": (3, 0.5),
        "engines' link frozen": (1, 3),
        "engines' link slow": (1, 4),
        "clients' link down": (2, 3),
        "clients' link frozen": (1, 3),
        "clients' link slow": (1, 4),
        "disk full": (2, 4),
        "no more descriptors": (2, 4),
        "clock jumps": (2, 4),
    }

    def step(self, now):
        names = [name for name in self.FAULTS if name not in {one[1] for one in self.under_way}]
        if names and len(self.under_way) < 2:
            (name,) = self.chance.choices(names, [self.FAULTS[one][0] for one in names])
            self.bring_about(name, now)

    def bring_about(self, name, now):
        lasts = self.chance.uniform(0.2, 1) * self.FAULTS[name][1]
        draw = self.chance.random()
        heal = getattr(self, name.replace(" ", "_").replace("'", ""))(draw)
        if heal is None:
            return
        self.counts[name] = self.counts.get(name, 0) + 1
        self.under_way.append((now + lasts, name, heal))

    def heal(self, fault):
        self.under_way.remove(fault)
        fault[2]()
        self.write("healed", name=fault[1])

    def heal_due(self, now):
        for fault in [one for one in self.under_way if one[0] <= now]:
            self.heal(fault)

    def heal_all(self):
        for fault in list(self.under_way):
            self.heal(fault)

    def _begin(self, name, **more):
        """Written before it happens: nothing that comes of it may seem to be earlier."""
        self.write("fault", name=name, **more)

    # ---- processes

    def _one(self, things, draw):
        return things[int(draw * len(things))] if things else None

    def _killed(self, name, target):
        if target is None:
            return None
        self._begin(name)
        send(target, signal.SIGKILL)
        return lambda: None

    def _stopped(self, name, target):
        if target is None:
            return None
        self._begin(name)
        send(target, signal.SIGSTOP)
        return lambda: send(target, signal.SIGCONT)

    def kernel_killed(self, draw):
        return self._killed("kernel killed", self._one(self.cluster.kernels(), draw))

    def engines_killed(self, draw):
        return self._killed("engines killed", self._one(self.cluster.running_engines(), draw))

    def engines_flap(self, draw):
        """They come and go faster than anybody can rely on them."""
        index = int(draw * len(self.cluster.engines))
        self._begin("engines flap")
        over = threading.Event()

        def flap():
            while not over.is_set():
                if (engines := self.cluster.engines[index]) is not None:
                    send(engines, signal.SIGKILL)
                over.wait(0.4)

        thread = threading.Thread(target=flap)
        thread.start()

        def heal():
            over.set()
            thread.join()

        return heal

    def kernel_stopped(self, draw):
        return self._stopped("kernel stopped", self._one(self.cluster.kernels(), draw))

    def engines_stopped(self, draw):
        return self._stopped("engines stopped", self._one(self.cluster.running_engines(), draw))

    def controller_stopped(self, draw):
        return self._stopped("controller stopped", self.cluster.controller)

    def controller_killed(self, draw):
        return self._killed("controller killed", self.cluster.controller)

    def controller_ended(self, draw):
        self._begin("controller ended")
        send(self.cluster.controller, signal.SIGTERM)
        return lambda: None

    def client_killed(self, draw):
        return self._killed("client killed", self._one(self.cluster.running_clients(), draw))

    def client_stopped(self, draw):
        return self._stopped("client stopped", self._one(self.cluster.running_clients(), draw))

    # ---- links

    def _link(self, name, link, change, *arguments):
        self._begin(name)
        getattr(link, change)(*arguments)
        return link.up

    def engines_link_down(self, draw):
        return self._link("engines' link down", self.cluster.engine_link, "down")

    def engines_link_broken(self, draw):
        """For so short a time that nobody is given up: what was on its way is lost, and only that."""
        return self._link("engines' link broken", self.cluster.engine_link, "down")

    def engines_link_frozen(self, draw):
        return self._link("engines' link frozen", self.cluster.engine_link, "frozen")

    def engines_link_slow(self, draw):
        return self._link("engines' link slow", self.cluster.engine_link, "slow", 200_000)

    def clients_link_down(self, draw):
        return self._link("clients' link down", self.cluster.client_link, "down")

    def clients_link_frozen(self, draw):
        return self._link("clients' link frozen", self.cluster.client_link, "frozen")

    def clients_link_slow(self, draw):
        return self._link("clients' link slow", self.cluster.client_link, "slow", 200_000)

    # ---- the controller's machine

    def disk_full(self, draw):
        if self.cluster.disk is None:
            return None
        self._begin("disk full")
        self.cluster.fill_disk()
        return self.cluster.empty_disk

    def no_more_descriptors(self, draw):
        spare = int(draw * 3)
        self._begin("no more descriptors", spare=spare)
        self.cluster.limit_descriptors(spare)
        return lambda: self.cluster.limit_descriptors(None)

    def clock_jumps(self, draw):
        if self.cluster.clock is None:
            return None
        seconds = int((draw - 0.5) * 2 * 86_400)
        self._begin("clock jumps", seconds=seconds)
        self.cluster.clock.write_text(f"{seconds:+d}\n")
        return lambda: self.cluster.clock.write_text("+0\n")


def pause(chance):
    """Seconds until the next step."""
    return min(chance.expovariate(1.2), 3.0)


def sleep_until(moment):
    time.sleep(max(0.0, moment - time.monotonic()))
