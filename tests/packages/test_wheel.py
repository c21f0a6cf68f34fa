"""The wheel, in an environment with ipyparallel, whose scripts must stay what they are."""

import subprocess
import sys
import venv

import ipyparallel
import pytest
from dist import made

PROGRAM = "ipcluster-rs"
CLIENT = """
import os, sys, ipyparallel
with ipyparallel.Client(timeout=60) as client:
    client.wait_for_engines(2, timeout=60)
    print(client[:].apply_sync(lambda: __import__("sys").prefix) == [sys.prefix] * 2)
"""


class Environment:
    def __init__(self, folder, variables):
        venv.create(folder, with_pip=True)
        self.scripts = folder / "bin"
        self.variables = variables

    def run(self, *command):
        done = subprocess.run(
            [self.scripts / command[0], *command[1:]],
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def pip(self, *words):
        return self.run("python", "-m", "pip", "--quiet", "--disable-pip-version-check", *words)

    def files(self):
        return {path: path.read_bytes() for path in self.scripts.iterdir() if path.name.startswith("ip")}


@pytest.fixture
def environment(tmp_path, clean_environment):
    environment = Environment(tmp_path / "venv", clean_environment)
    environment.pip("install", f"ipyparallel=={ipyparallel.__version__}")
    return environment


def test_it_takes_nothing_from_ipyparallel_and_works_with_it(environment):
    before = environment.files()
    assert {path.name for path in before} >= {"ipcluster", "ipcontroller", "ipengine"}
    wheel = made("ipcluster_rs-*.whl")
    environment.pip("install", "--no-index", wheel)
    after = environment.files()
    assert {path.name for path in after.keys() - before.keys()} == {PROGRAM}
    assert all(after[path] == content for path, content in before.items())

    environment.run(PROGRAM, "start", "-n", "2", "--daemonize")
    try:
        # Without being told, engines have the Python of this environment.
        assert environment.run("python", "-c", CLIENT) == "True\n"
    finally:
        environment.run(PROGRAM, "stop")
    environment.run("python", "-m", "ipyparallel.cluster", "--version")

    environment.pip("install", "--force-reinstall", "--no-deps", f"ipyparallel=={ipyparallel.__version__}")
    assert environment.files() == after
    environment.pip("uninstall", "--yes", "ipcluster-rs")
    assert environment.files() == before


def test_its_tag_says_which_glibc_it_takes():
    name = made("ipcluster_rs-*.whl").name
    assert name.startswith("ipcluster_rs-") and "-py3-none-" in name
    if sys.platform == "linux":
        assert "manylinux_2_" in name, name
