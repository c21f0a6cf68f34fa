"""Engines and a controller as jobs of a real Grid Engine, of one host on this machine."""

import json
import os
import subprocess

import grid_engine_server
import pytest
from cluster_fixtures import clusters, wait_until  # noqa: F401

MISSING = grid_engine_server.missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"Grid Engine is not installed: no {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    with grid_engine_server.grid_engine(tmp_path_factory.mktemp("sge")) as environment:
        yield environment


@pytest.fixture
def sge(clusters, environment):
    """Clusters whose parts Grid Engine may run; no job may be left."""
    for name, value in environment.items():
        if name == "PATH" or name.startswith("SGE_"):
            clusters.env[name] = value
    yield clusters
    left = jobs(clusters)
    for job in left:
        command(clusters, "qdel", "-f", job)
    assert not left, f"jobs that were left: {left}"


def command(clusters, *argv):
    done = subprocess.run(argv, env=clusters.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def jobs(clusters):
    """The ids of jobs, each once however many tasks it has."""
    lines = command(clusters, "qstat", "-u", "*").splitlines()[2:]
    return sorted({line.split()[0] for line in lines})


def test_engines_are_an_array_of_jobs_that_stop_deletes(sge):
    sge.ok("start", "-n", "2", "--engines=sge", "--daemonize")
    (job,) = jobs(sge)
    with sge.client() as client:
        assert client.ids == [0, 1]
        assert client[:].apply_sync(os.getenv, "JOB_ID") == [job, job]
        assert sorted(client[:].apply_sync(os.getenv, "SGE_TASK_ID")) == ["1", "2"]
    listed = sge.python("list")
    assert "SGE" in listed and " 2 " in listed, listed
    sge.ok("stop")
    assert jobs(sge) == []
    sge.assert_nothing_left()


def test_a_job_that_waits_is_shown_and_can_be_taken_back(sge):
    command(sge, "qmod", "-d", "all.q")
    try:
        running = sge.spawn("start", "-n", "1", "--engines=sge")
        running.wait_for_line("the engines: waiting in the queue")
        sge.ok("stop")
        assert running.wait() == 130
    finally:
        command(sge, "qmod", "-e", "all.q")
    sge.assert_nothing_left()


def test_a_queue_that_there_is_not_is_told_in_its_words(sge):
    done = sge.run("start", "-n", "1", "--engines=sge", "--SGEEngineSetLauncher.queue=nowhere", "--daemonize")
    assert done.returncode == 1
    assert "Grid Engine has refused the script" in done.stdout and "nowhere" in done.stdout, done.stdout
    sge.assert_nothing_left()


def test_the_controller_is_a_job_that_is_warned_before_its_end(sge):
    sge.ok("start", "-n", "1", "--controller=sge", "--engines=sge", "--daemonize")
    (log,) = (sge.profile_dir / "log").glob("ipcontroller-*.log")
    assert len(jobs(sge)) == len(sge.run_file()["jobs"]) == 2
    with sge.client() as client:
        assert client[:].apply_sync(abs, -4) == [4]
    assert json.loads(sge.ok("status", "-o", "json"))["state"] == "running"
    sge.ok("stop")
    assert jobs(sge) == []
    assert "the controller ends: it was told to" in log.read_text()
    sge.assert_nothing_left()


def test_an_elastic_cluster_submits_further_jobs_while_tasks_wait(sge):
    from test_elastic import grows_and_shrinks

    sge.ok("start", "--min=1", "--max=3", "--idle-timeout=1", "--engines=sge", "--daemonize")
    with sge.client() as client:
        grows_and_shrinks(client, sge.folder, 3)
    wait_until(lambda: len(jobs(sge)) == 1, "the end of the first job")
    sge.ok("stop")
    assert jobs(sge) == []
    sge.assert_nothing_left()
