"""A Grid Engine of one host on this machine: its own cell, ports and folder. Its master runs as `sgeadmin`, whom the Debian
packages make; its execution daemon as root."""

import os
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import ports
import real_servers

COMMANDS = ("sge_qmaster", "sge_execd", "qsub", "qstat", "qdel", "qconf")
SHARED = Path("/usr/share/gridengine")
OWNER = "sgeadmin"

BOOTSTRAP = """\
admin_user              {owner}
default_domain          none
ignore_fqdn             false
spooling_method         berkeleydb
spooling_lib            libspoolb
spooling_params         {spool}/spooldb
binary_path             /usr/sbin
qmaster_spool_dir       {spool}/qmaster
security_mode           none
listener_threads        1
worker_threads          1
scheduler_threads       1
"""

HOST = """\
hostname {host}
load_scaling NONE
complex_values NONE
user_lists NONE
xuser_lists NONE
projects NONE
xprojects NONE
usage_scaling NONE
report_variables NONE
"""

QUEUE = """\
qname all.q
hostlist {host}
seq_no 0
load_thresholds NONE
suspend_thresholds NONE
nsuspend 1
suspend_interval 00:05:00
priority 0
min_cpu_interval 00:05:00
processors UNDEFINED
qtype BATCH INTERACTIVE
ckpt_list NONE
pe_list NONE
rerun FALSE
slots 8
tmpdir /tmp
shell /bin/sh
prolog NONE
epilog NONE
shell_start_mode posix_compliant
starter_method NONE
suspend_method NONE
resume_method NONE
terminate_method NONE
notify 00:00:60
owner_list NONE
user_lists NONE
xuser_lists NONE
subordinate_list NONE
complex_values NONE
projects NONE
xprojects NONE
calendar NONE
initial_state default
s_rt INFINITY
h_rt INFINITY
s_cpu INFINITY
h_cpu INFINITY
s_fsize INFINITY
h_fsize INFINITY
s_data INFINITY
h_data INFINITY
s_stack INFINITY
h_stack INFINITY
s_core INFINITY
h_core INFINITY
s_rss INFINITY
h_rss INFINITY
s_vmem INFINITY
h_vmem INFINITY
"""


def missing():
    """What this machine has not got of it."""
    if os.getuid() != 0:
        return ["root"]
    found = real_servers.missing(*COMMANDS)
    return found or ([] if (SHARED / "scripts" / "init_cluster").exists() else ["init_cluster"])


class GridEngine:
    def __init__(self, folder):
        self.folder = folder
        self.host = socket.gethostname()
        self.root = folder / "root"
        self.environment = {
            **os.environ,
            "PATH": real_servers.PATH,
            "SGE_ROOT": str(self.root),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(ports.free_port()),
            "SGE_EXECD_PORT": str(ports.free_port()),
            # In the foreground, so that they can be waited for.
            "SGE_ND": "1",
        }

    def make_cell(self):
        spool = self.folder / "spool"
        common = self.root / "default" / "common"
        common.mkdir(parents=True)
        for name in ("spooldb", "qmaster/job_scripts", "execd"):
            (spool / name).mkdir(parents=True)
        for name in ("bin", "lib", "util", "utilbin"):
            (self.root / name).symlink_to(f"/var/lib/gridengine/{name}")
        (common / "bootstrap").write_text(BOOTSTRAP.format(owner=OWNER, spool=spool))
        (common / "act_qmaster").write_text("localhost\n")
        # Else the host is not the one that its own name means.
        (common / "host_aliases").write_text(f"localhost {self.host}\n")
        for path in (self.folder, *self.folder.parents):
            if path.parent != path and path.stat().st_uid == os.getuid():
                path.chmod(path.stat().st_mode | 0o111)
        for path in (spool, self.root):
            subprocess.run(["chown", "-R", "-h", OWNER, path], check=True)
        self.run(str(SHARED / "scripts" / "init_cluster"), self.root, "default", spool / "spooldb", OWNER, user=OWNER)

    def run(self, *words, user=None):
        if user:
            words = ("runuser", "-u", user, "--", *words)
        done = subprocess.run(
            [str(word) for word in words], env=self.environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"{words}: {done.stdout} {done.stderr}")
        return done.stdout

    def configure(self):
        """Everything that a job needs; to be called before there is one."""

        def admin(*words):
            return self.run("qconf", *words)

        def from_file(option, text):
            path = self.folder / "qconf"
            path.write_text(text)
            admin(option, path)

        def changed(text, **values):
            lines = [line for line in text.splitlines() if line.split(None, 1)[:1] and line.split()[0] not in values]
            return "\n".join([*lines, *(f"{name} {value}" for name, value in values.items())]) + "\n"

        admin("-as", "localhost")
        (self.folder / "global").write_text(
            changed(
                admin("-sconf", "global").split("\n", 1)[1],
                min_uid=0,
                min_gid=0,
                execd_spool_dir=self.folder / "spool" / "execd",
                load_report_time="00:00:02",
            )
        )
        (self.folder / "global").chmod(0o644)
        admin("-Mconf", self.folder / "global")
        from_file("-Msconf", changed(admin("-ssconf"), schedule_interval="0:0:1"))
        from_file("-Ae", HOST.format(host="localhost"))
        from_file("-Aq", QUEUE.format(host="localhost"))

    def answers(self):
        asked = subprocess.run(["qconf", "-sh"], env=self.environment, capture_output=True)
        return asked.returncode == 0

    def is_open(self):
        """Has its host reported?"""
        asked = subprocess.run(["qstat", "-f"], env=self.environment, capture_output=True, text=True)
        lines = [line.split() for line in asked.stdout.splitlines() if line.startswith("all.q@")]
        # The state is the last column, and there is none when all is well.
        return bool(lines) and len(lines[0]) == 5 and lines[0][3] != "-NA-"


@contextmanager
def grid_engine(folder):
    """Runs it; gives the environment for its commands."""
    engine = GridEngine(folder)
    engine.make_cell()
    with real_servers.server(folder, engine.environment, "spool/**/messages") as server:
        server.start("sge_qmaster")
        server.wait_until(engine.answers)
        engine.configure()
        server.start("sge_execd")
        server.wait_until(engine.is_open)
        yield engine.environment
