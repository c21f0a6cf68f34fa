"""What `ipcluster start` hands on to its controller."""

import json

import pytest
from cluster_fixtures import clusters  # noqa: F401

USAGE = 2


@pytest.mark.parametrize("behind", [["--"], []])
def test_arguments_reach_the_controller(clusters, behind):
    clusters.ok("start", "-n", "1", "--daemonize", *behind, "--scheme=lru", "--hwm", "0")
    file = clusters.profile_dir / "security" / "ipcontroller-client.json"
    assert json.loads(file.read_text())["task_scheme"] == "lru"
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_the_last_word_counts_for_the_controller(clusters):
    args = '--Cluster.controller_args=["--scheme=pure", "--hwm=7"]'
    clusters.ok("start", "-n", "0", "--daemonize", args, "--scheme=lru", "--", "--scheme=twobin")
    file = clusters.profile_dir / "security" / "ipcontroller-client.json"
    assert json.loads(file.read_text())["task_scheme"] == "twobin"
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_what_the_controller_would_refuse_starts_nothing(clusters):
    for wrong in ("--hwm=many", "--sqlitedb=perhaps", "--scheme=bogus"):
        done = clusters.run("start", "-n", "1", "--daemonize", wrong)
        assert done.returncode == USAGE and wrong.partition("=")[2] in done.stdout, done.stdout
    done = clusters.run("start", "-n", "1", "--", "--no-such-flag")
    assert done.returncode == USAGE and "`ipcluster controller` knows no --no-such-flag" in done.stdout, done.stdout
    clusters.assert_nothing_left()


def test_reused_connection_files_stay(clusters):
    clusters.ok("start", "-n", "1", "--daemonize", "--", "--reuse")
    file = clusters.profile_dir / "security" / "ipcontroller-client.json"
    before = file.read_text()
    clusters.ok("stop")
    assert file.read_text() == before
    clusters.ok("start", "-n", "1", "--daemonize", "--", "--reuse")
    assert file.read_text() == before
    clusters.ok("stop")
    clusters.ok("clean")
    clusters.assert_nothing_left()
