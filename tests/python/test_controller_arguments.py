"""What `ipcluster start` hands on to its controller, and what its engines are given."""

import json
import os
import signal

import pytest
from cluster_fixtures import PATIENCE, clusters, wait_until  # noqa: F401
from ipyparallel import error

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


@pytest.mark.parametrize("verb", ["start", "engines"])
def test_flags_of_engines_are_named_as_such_with_the_way_to_give_them(clusters, verb):
    for flag, setting, argument in (
        ("--restart=always", "`restart` of [engine]", '["--restart=…"]'),
        ("--memory-limit=4GiB", "`memory_limit` of [engine]", '["--memory-limit=…"]'),
        ("--pin", "`pin` of [engine]", '["--pin"]'),
    ):
        done = clusters.run(verb, "-n", "1", flag)
        assert done.returncode == USAGE
        for part in ("it is a flag of `ipcluster engine`", setting, f"engine_args = {argument}"):
            assert part in done.stdout, done.stdout
        assert "did you mean" not in done.stdout
    assert "--engines=mpi" in clusters.run(verb, "-n", "1", "--mpi").stdout
    assert "did you mean --daemonize" in clusters.run(verb, "-n", "1", "--deamonize").stdout


def test_flags_of_others_are_theirs(clusters):
    for verb, flag, whose in (("engines", "--sqlitedb", "start"), ("controller", "--pin", "engine"), ("engine", "--hwm=1", "controller")):
        done = clusters.run(verb, flag)
        assert done.returncode == USAGE and f"`ipcluster {whose}`" in done.stdout, done.stdout


def test_engines_are_given_their_flags_by_the_settings(clusters):
    clusters.ok("profile", "create", "default")
    (clusters.profile_dir / "ipcluster.toml").write_text('[engine]\npin = true\n[cluster]\nengine_args = ["--restart=always"]\n')
    clusters.ok("start", "-n", "2", "--daemonize")
    with clusters.client() as client:
        old = client._engines[0]
        with pytest.raises(error.RemoteError, match="EngineError"):
            client[0].apply_async(lambda: os.kill(os.getpid(), signal.SIGKILL)).get(timeout=PATIENCE)

        wait_until(lambda: len(client.ids) == 2 and old not in client._engines.values(), "another kernel")
        processors = client[:].apply_sync(lambda: os.sched_getaffinity(0))
    assert os.cpu_count() == 1 or not processors[0] & processors[1], processors
    clusters.ok("stop")
    clusters.assert_nothing_left()
