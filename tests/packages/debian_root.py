"""A small Debian beside this one, with python3-ipyparallel in it: a chroot that is made once, and a copy for each test.

The copy is an overlay whose changes are in memory, in namespaces of its own: when they end, so do its processes, and
nothing is left. Needs root and mmdebstrap.
"""

import os
import platform
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import psutil

STOCK = "python3-ipyparallel"
USER = "someone"


def missing():
    """Why this machine cannot make one, if it cannot."""
    if os.getuid() != 0:
        return "it takes root"
    found = [name for name in ("mmdebstrap", "unshare", "nsenter") if not shutil.which(name)]
    if found:
        return f"no {', '.join(found)}"
    allowed = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], stderr=subprocess.DEVNULL).returncode == 0
    return None if allowed else "namespaces cannot be made here"


def make(folder):
    """The chroot in `folder`, which is made when it is not there."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    stamp = folder / "etc" / "made-for-tests"
    if stamp.is_file() and stamp.read_text() == suite:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    # In namespaces of its own: its mounts would outlive it when it is killed, and who then removes the folder removes what is
    # mounted there.
    subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={STOCK}",
            '--aptopt=APT::Install-Recommends "false"',
            # To be installed and removed without a network.
            f'--customize-hook=chroot "$1" sh -c "cd /srv && apt-get download {STOCK}"',
            f'--customize-hook=chroot "$1" useradd --create-home --shell /bin/bash {USER}',
            suite,
            str(folder),
        ],
        check=True,
    )
    stamp.write_text(suite)
    return folder


class Debian:
    """A copy of it that runs."""

    def __init__(self, pid, root):
        self.pid = pid
        self.root = root

    def run(self, *command, user="root", **how):
        """Runs a command to its end. Its result has all that it wrote in `stdout`."""
        home = "/root" if user == "root" else f"/home/{user}"
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": home,
            "USER": user,
            "DEBIAN_FRONTEND": "noninteractive",
        }
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "chroot", f"--userspec={user}", str(self.root)]
        words = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in environment.items())]
        return subprocess.run(
            [*enter, *words, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            **how,
        )

    def ok(self, *command, **how):
        done = self.run(*command, **how)
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}"
        return done.stdout

    def copy_in(self, path, target):
        """Copies a file of this machine to a path there."""
        with open(path, "rb") as file:
            subprocess.run(
                ["nsenter", f"--target={self.pid}", "--mount", "sh", "-c", 'cat > "$1"', "sh", f"{self.root}{target}"],
                stdin=file,
                check=True,
            )

    def processes(self):
        """What runs there, but for what keeps it there."""
        keeper = psutil.Process(self.pid)
        return [child for child in keeper.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def copy(root, folder):
    """Runs one, whose changes nobody else sees."""
    merged, changes = folder / "root", folder / "changes"
    merged.mkdir()
    changes.mkdir()
    # bash reaps what has lost its parent, as the first process has to.
    script = """
        set -e
        mount -t tmpfs tmpfs "$2"
        mkdir "$2/upper" "$2/work"
        mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$3"
        mount -t proc proc "$3/proc"
        mount --rbind /dev "$3/dev"
        mount -t tmpfs tmpfs "$3/tmp" -o mode=1777
        echo ready
        read -r until_the_test_ends || true
    """
    keeper = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script, "bash", root, changes, merged],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert keeper.stdout.readline() == "ready\n", "the namespaces could not be made"
        (first,) = psutil.Process(keeper.pid).children()
        yield Debian(first.pid, Path(merged))
    finally:
        keeper.stdin.close()
        keeper.wait(30)
