"""The Debian package, made by debhelper of the tree."""

import os
import shutil
import subprocess

import project
from project import DIST, ROOT, TREE, run

TOOLS = ("dpkg-buildpackage", "dh")


def missing():
    """What this machine has not got of what it takes."""
    return [tool for tool in TOOLS if not shutil.which(tool)]


def make():
    if missing():
        project.fail(f"{', '.join(missing())} not found: apt-get install debhelper dpkg-dev")
    parent = project.WORK / "deb"
    shutil.rmtree(parent, ignore_errors=True)
    folder = parent / "ipcluster"
    shutil.copytree(ROOT / "packaging" / "debian", folder / "debian")
    shutil.copytree(TREE, folder / "tree", symlinks=True)
    shutil.copy(TREE / "lib/systemd/user/ipcluster@.service", folder / "debian" / "ipcluster@.user.service")
    packaged = run("dpkg-parsechangelog", "-SVersion", cwd=folder, stdout=subprocess.PIPE, text=True).strip()
    if packaged.rpartition("-")[0] != project.version():
        project.fail(f"packaging/debian/changelog speaks of {packaged}, Cargo.toml of {project.version()}")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(project.epoch())}
    with (parent / "log").open("w") as log:
        done = subprocess.run(
            ["dpkg-buildpackage", "--build=binary", "--no-sign"], cwd=folder, env=environment, stdout=log, stderr=log
        )
    if done.returncode != 0:
        project.fail(f"dpkg-buildpackage failed:\n{(parent / 'log').read_text()}")
    for path in parent.glob("*.deb"):
        shutil.copy(path, DIST)
