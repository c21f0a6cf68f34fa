"""Engines as jobs of a real Slurm, of one node on this machine."""

import os
import signal
import subprocess

import pytest
import slurm_server
from cluster_fixtures import clusters, wait_until  # noqa: F401

MISSING = slurm_server.missing()
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"Slurm is not installed: no {', '.join(MISSING)}"
)


@pytest.fixture(scope="module")
def slurm_environment(tmp_path_factory):
    with slurm_server.slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def slurm(clusters, slurm_environment):
    """Clusters whose engines Slurm may run; no job may be left."""
    for name in ("PATH", "SLURM_CONF"):
        clusters.env[name] = slurm_environment[name]
    yield clusters
    clusters.env["IPYTHONDIR"] = str(clusters.folder)
    left = jobs(clusters)
    for job in left:
        command(clusters, "scancel", "--full", "--signal=KILL", job)
    assert not left, f"jobs that were left: {left}"


def command(clusters, *argv):
    done = subprocess.run(argv, env=clusters.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def jobs(clusters):
    return command(clusters, "squeue", "--noheader", "--format=%i").split()


def test_engines_are_a_job_that_stop_cancels(slurm):
    slurm.ok("start", "-n", "2", "--engines=slurm", "--daemonize")
    (job,) = jobs(slurm)
    assert "Slurm" in slurm.ok("list")
    listed = slurm.python("list")
    assert "Slurm" in listed and " 2 " in listed
    with slurm.client() as client:
        assert client.ids == [0, 1]
        tasks = client[:].apply_sync(os.getenv, "SLURM_JOB_ID")
        assert tasks == [job, job]
    slurm.ok("stop")
    assert jobs(slurm) == []
    slurm.assert_nothing_left()


def test_a_job_that_is_cancelled_is_noticed_and_another_one_can_be_added(slurm):
    running = slurm.start(1, "--engines=slurm")
    (job,) = jobs(slurm)
    command(slurm, "scancel", job)
    running.wait_for_line("the engines have ended (its job was cancelled)")
    assert running.process.poll() is None
    slurm.ok("engines", "-n", "1", "--engines=slurm", "--daemonize")
    with slurm.client() as client:
        assert client.ids == [1]
    slurm.ok("stop")
    assert running.wait() == 0
    slurm.assert_nothing_left()


def test_a_job_that_is_put_back_is_noticed(slurm):
    running = slurm.start(1, "--engines=slurm")
    (job,) = jobs(slurm)
    # Held, so that it does not run again before anybody looks.
    command(slurm, "scontrol", "requeuehold", job)
    running.wait_for_line("requeued in held state")
    slurm.ok("stop")
    assert running.wait() == 0
    slurm.assert_nothing_left()


def test_a_job_that_has_to_wait_is_waited_for_no_longer_than_asked(slurm):
    node = command(slurm, "sinfo", "--noheader", "--format=%N").strip()
    command(slurm, "scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        told = slurm.ok(
            "start", "-n", "1", "--engines=slurm", "--daemonize", "--engine-timeout=1"
        )
        assert "waiting in the queue" in told and "still wait in the queue" in told
    finally:
        command(slurm, "scontrol", "update", f"nodename={node}", "state=resume")
    with slurm.client() as client:
        wait_until(lambda: client.ids == [0], "the engine")
    slurm.ok("stop")
    slurm.assert_nothing_left()


def test_a_script_that_slurm_refuses_leaves_nothing(slurm):
    done = slurm.run(
        "start", "-n", "1", "--engines=slurm", "--SlurmEngineSetLauncher.queue=nowhere", "--daemonize"
    )
    assert done.returncode == 1
    assert "Slurm has refused the script" in done.stdout
    assert "invalid partition specified: nowhere" in done.stdout
    slurm.assert_nothing_left()


def test_the_job_of_a_supervisor_that_was_killed_is_cancelled_later(slurm):
    running = slurm.start(1, "--engines=slurm")
    (job,) = jobs(slurm)
    running.signal(signal.SIGKILL)
    running.wait()
    assert jobs(slurm) == [job]
    # Also by the next start.
    again = slurm.start(1, "--engines=slurm")
    assert f"slurm job {job} of an earlier cluster is still there" in again.text()
    assert job not in jobs(slurm)
    again.signal(signal.SIGKILL)
    again.wait()
    slurm.ok("stop")
    assert jobs(slurm) == []
    slurm.assert_nothing_left()


def test_an_elastic_cluster_submits_further_jobs_while_tasks_wait(slurm):
    from test_elastic import grows_and_shrinks

    slurm.ok("start", "--min=1", "--max=3", "--idle-timeout=1", "--engines=slurm", "--daemonize")
    assert len(jobs(slurm)) == 1
    with slurm.client() as client:
        # Two of the three are of one job.
        grows_and_shrinks(client, slurm.folder, 3)
    wait_until(lambda: len(jobs(slurm)) == 1, "the end of the first job")
    slurm.ok("stop")
    assert jobs(slurm) == []
    slurm.assert_nothing_left()


def test_the_controller_is_a_job_as_well(slurm):
    slurm.ok("start", "-n", "2", "--controller=slurm", "--engines=slurm", "--daemonize")
    assert len(jobs(slurm)) == 2
    assert len(slurm.run_file()["jobs"]) == 2
    with slurm.client() as client:
        assert client.ids == [0, 1]
        assert len(set(client[:].apply_sync(os.getenv, "SLURM_JOB_ID"))) == 1
    listed = slurm.python("list")
    assert "Slurm" in listed and " 2 " in listed
    slurm.ok("stop")
    assert jobs(slurm) == []
    slurm.assert_nothing_left()


def test_a_controller_whose_job_is_cancelled_ends_its_cluster(slurm):
    running = slurm.start(1, "--controller=slurm")
    (job,) = jobs(slurm)
    command(slurm, "scancel", job)
    assert running.wait() in (0, 1)
    assert jobs(slurm) == []
    slurm.assert_nothing_left()


def test_a_controller_that_has_to_wait_is_followed_by_everything_else(slurm):
    node = command(slurm, "sinfo", "--noheader", "--format=%N").strip()
    command(slurm, "scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        told = slurm.ok("start", "-n", "1", "--controller=slurm", "--daemonize", "--engine-timeout=1")
        assert "the controller: waiting in the queue" in told and "the controller still waits" in told
    finally:
        command(slurm, "scontrol", "update", f"nodename={node}", "state=resume")
    client_file = slurm.profile_dir / "security" / "ipcontroller-client.json"
    wait_until(client_file.exists, "the connection file")
    with slurm.client() as client:
        wait_until(lambda: client.ids == [0], "the engine")
    slurm.ok("stop")
    slurm.assert_nothing_left()
