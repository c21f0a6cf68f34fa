"""Every command ends with the exit code that README.md has for it."""

import re
from pathlib import Path

import pytest
from cluster_fixtures import clusters  # noqa: F401

FAILED, USAGE, ALREADY_STARTED, ALREADY_STOPPED, NO_CLUSTER = 1, 2, 10, 11, 12

README = (Path(__file__).parents[2] / "README.md").read_text()

# All commands, and what each says where no such cluster runs: a profile that there is not, and one that was never used.
# What makes a profile is asked for something that starts nothing.
COMMANDS = {
    "start": (["start", "-n", "1", "--dry-run", "--engines=slurm"], 0, 0),
    "stop": (["stop"], ALREADY_STOPPED, ALREADY_STOPPED),
    "stop --all": (["stop", "--all"], ALREADY_STOPPED, 0),
    "stop --engines": (["stop", "--engines", "0"], NO_CLUSTER, NO_CLUSTER),
    "restart": (["restart"], NO_CLUSTER, NO_CLUSTER),
    "restart engines": (["restart", "engines"], NO_CLUSTER, NO_CLUSTER),
    "restart 0": (["restart", "0"], NO_CLUSTER, NO_CLUSTER),
    "engines": (["engines", "-n", "1"], NO_CLUSTER, NO_CLUSTER),
    "list": (["list"], NO_CLUSTER, 0),
    "status": (["status"], NO_CLUSTER, NO_CLUSTER),
    "logs": (["logs"], NO_CLUSTER, NO_CLUSTER),
    "dashboard": (["dashboard"], NO_CLUSTER, NO_CLUSTER),
    "top": (["top", "--once"], NO_CLUSTER, NO_CLUSTER),
    "tasks": (["tasks"], NO_CLUSTER, NO_CLUSTER),
    "report": (["report"], NO_CLUSTER, NO_CLUSTER),
    "clean": (["clean"], NO_CLUSTER, 0),
    "doctor": (["doctor"], 0, 0),
    "db query": (["db", "query"], NO_CLUSTER, NO_CLUSTER),
    "db show": (["db", "show", "x"], NO_CLUSTER, NO_CLUSTER),
    "db stats": (["db", "stats"], NO_CLUSTER, NO_CLUSTER),
    "db purge": (["db", "purge", "--all"], NO_CLUSTER, NO_CLUSTER),
    "profile show": (["profile", "show"], NO_CLUSTER, 0),
    "profile path": (["profile", "path"], NO_CLUSTER, 0),
    "profile check": (["profile", "check"], NO_CLUSTER, 0),
    "profile import": (["profile", "import", "--force"], NO_CLUSTER, 0),
    "profile create": (["profile", "create"], 0, FAILED),
}

# These begin something if nothing keeps them from it.
STARTING = {
    "controller": ["controller"],
    "engine": ["engine"],
}

UNHEARD_OF = ["--profile=a/b", "--profile=", f"--profile={'x' * 300}", "--cluster-id=a/b", "--cluster-id=.a", "--no-such-flag"]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_not_there_has_its_exit_code(clusters, name):
    arguments, of_none, of_unused = COMMANDS[name]
    done = clusters.run(*arguments, "--profile=none")
    assert done.returncode == of_none, done.stdout
    if of_none != 0:
        assert "none" in done.stdout and not (clusters.folder / "profile_none").exists(), done.stdout
    clusters.ok("profile", "create", "unused")
    done = clusters.run(*arguments, "--profile=unused")
    assert done.returncode == of_unused, done.stdout


@pytest.mark.parametrize("name", [*COMMANDS, *STARTING])
@pytest.mark.parametrize("wrong", UNHEARD_OF)
def test_what_cannot_be_meant_is_refused(clusters, name, wrong):
    arguments = STARTING[name] if name in STARTING else COMMANDS[name][0]
    done = clusters.run(*arguments, wrong)
    assert done.returncode == USAGE, done.stdout
    assert wrong.partition("=")[2][:20] in done.stdout


def test_all_commands_are_here(clusters):
    table = README.partition("| command | what it does |")[2].partition("\n\n")[0]
    told = set(re.findall(r"^\| `ipcluster ([a-z]+)", table, re.MULTILINE)) - {"completions"}
    assert told == {name.split()[0] for name in [*COMMANDS, *STARTING]}


def test_what_a_killed_cluster_left_is_no_cluster(clusters):
    controller = clusters.spawn("controller")
    controller.wait_for_line("listens on")
    controller.process.kill()
    controller.wait()
    for name in ("status", "top", "restart", "engines", "dashboard", "tasks"):
        done = clusters.run(*COMMANDS[name][0])
        assert done.returncode == NO_CLUSTER, (name, done.stdout)
    assert clusters.run("stop").returncode == ALREADY_STOPPED


def test_what_runs_is_not_started_again(clusters):
    clusters.ok("start", "-n", "1", "--daemonize")
    for again in (["start", "-n", "1"], ["start", "-n", "1", "--daemonize"], ["controller"]):
        assert clusters.run(*again).returncode == ALREADY_STARTED
    clusters.ok("stop")
    assert clusters.run("stop").returncode == ALREADY_STOPPED
    clusters.assert_nothing_left()
