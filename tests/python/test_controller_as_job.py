"""A controller that is a job of a batch system, or a process of mpiexec."""

import json
import os
import shutil
import signal

import pytest
from cluster_fixtures import allow_mpi, clusters  # noqa: F401
from test_batch_systems import COMMANDS, SETS, System

CONTROLLERS = {name: launcher.replace("EngineSet", "Controller") for name, launcher in SETS.items()}
DELETE = {"pbs": "qdel", "sge": "qdel", "lsf": "bkill", "htcondor": "condor_rm"}
SUBMIT = {"pbs": "qsub", "sge": "qsub", "lsf": "bsub", "htcondor": "condor_submit"}


@pytest.fixture(params=COMMANDS)
def system(request, clusters, tmp_path):
    return System(request.param, clusters, tmp_path / "batch")


def test_controller_and_engines_run_as_jobs_and_end_with_the_cluster(system):
    clusters = system.clusters
    clusters.ok("start", "-n", "2", f"--controller={system.name}", f"--engines={system.name}", "--daemonize")
    assert len(clusters.run_file()["jobs"]) == 2
    file = json.loads((clusters.profile_dir / "security" / "ipcontroller-client.json").read_text())
    assert file["interface"] == "tcp://*", "it can be reached from wherever"
    with clusters.client() as client:
        assert client.ids == [0, 1]
        assert client[:].apply_sync(os.getenv, "FAKE_JOB") == ["2", "2"]
    listed = clusters.python("list")
    assert " 2 " in listed and "True" in listed, listed
    assert json.loads(clusters.ok("status", "-o", "json"))["state"] == "running"
    clusters.ok("stop")
    assert len(system.calls(DELETE[system.name])) == 2
    clusters.assert_nothing_left()


def test_a_controller_that_waits_is_shown_and_can_be_taken_back(system):
    clusters = system.clusters
    (system.folder / "hold").touch()
    running = clusters.spawn("start", "-n", "1", f"--controller={system.name}")
    running.wait_for_line("the controller: waiting in the queue")
    clusters.ok("stop")
    assert running.wait() == 130
    assert len(system.calls(DELETE[system.name])) == 1
    clusters.assert_nothing_left()


def test_whoever_starts_it_in_the_background_waits_no_longer_than_asked(system):
    clusters = system.clusters
    (system.folder / "hold").touch()
    told = clusters.ok("start", "-n", "1", f"--controller={system.name}", "--daemonize", "--engine-timeout=1")
    assert "the controller still waits in the queue" in told
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_a_controller_that_is_taken_away_is_the_cluster_s_end(system):
    clusters = system.clusters
    running = clusters.start(1, f"--controller={system.name}")
    pid = int((system.folder / "jobs" / "1" / "1").read_text())
    os.killpg(pid, signal.SIGKILL)
    assert running.wait() == 1
    assert "the controller has died" in running.text(), running.text()
    clusters.assert_nothing_left()


def test_what_the_system_refuses_is_told_in_its_words(system):
    clusters = system.clusters
    setting = "account" if system.name == "htcondor" else "queue"
    done = clusters.run(
        "start", f"--controller={system.name}", f"--{CONTROLLERS[system.name]}.{setting}=nowhere", "--daemonize"
    )
    assert done.returncode == 1
    assert "has refused the script" in done.stdout and "nowhere" in done.stdout
    clusters.assert_nothing_left()


def test_a_controller_that_does_not_get_ready_is_given_up(clusters, tmp_path):
    system = System("pbs", clusters, tmp_path / "batch")
    template = tmp_path / "template"
    # As on a node that does not share the profile's folder.
    template.write_text("#!/bin/sh\n#PBS -o {output_file}\nexec sleep 600\n")
    done = clusters.run(
        "start",
        "--daemonize",
        "--controller=pbs",
        f"--PBSControllerLauncher.batch_template_file={template}",
        "--PBSControllerLauncher.connection_info_timeout=1",
    )
    assert done.returncode == 1
    assert "a file system that the nodes share" in done.stdout and "connection_info_timeout" in done.stdout, done.stdout
    assert len(system.calls("qdel")) == 1
    clusters.assert_nothing_left()


def test_a_template_of_one_s_own_needs_to_know_nothing_of_us(clusters, tmp_path):
    System("pbs", clusters, tmp_path / "batch")
    template = tmp_path / "template"
    template.write_text("#!/bin/sh\n#PBS -N mine\nexec {program} --profile-dir={profile_dir} --cluster-id={cluster_id}\n")
    trait = f"--PBSControllerLauncher.batch_template_file={template}"
    clusters.ok("start", "-n", "1", "--daemonize", "--controller=pbs", trait, "--cluster-id=x")
    with clusters.client("x") as client:
        assert client[:].apply_sync(abs, -2) == [2]
    clusters.ok("stop", "--cluster-id=x")
    clusters.assert_nothing_left()


def test_old_connection_files_are_not_taken_for_new_ones(clusters, tmp_path):
    system = System("pbs", clusters, tmp_path / "batch")
    clusters.ok("start", "-n", "0", "--daemonize", "--", "--reuse")
    security = clusters.profile_dir / "security"
    key = json.loads((security / "ipcontroller-client.json").read_text())["key"]
    clusters.ok("stop")
    # The same key and ports, by another controller.
    clusters.ok("start", "-n", "1", "--daemonize", "--controller=pbs", "--", "--reuse")
    assert len(system.calls("qsub")) == 1
    assert json.loads((security / "ipcontroller-client.json").read_text())["key"] == key
    with clusters.client() as client:
        assert client[:].apply_sync(abs, -2) == [2]
    clusters.ok("stop")
    clusters.wait_until_gone()
    assert sorted(path.name for path in security.glob("ipcontroller*.json"))


def test_files_that_are_to_be_kept_are_made_for_everybody(clusters, tmp_path):
    System("pbs", clusters, tmp_path / "batch")
    clusters.ok("start", "-n", "1", "--daemonize", "--controller=pbs", "--reuse")
    file = json.loads((clusters.profile_dir / "security" / "ipcontroller-client.json").read_text())
    assert file["interface"] == "tcp://*"
    clusters.ok("stop")
    clusters.wait_until_gone()
    assert list((clusters.profile_dir / "security").glob("ipcontroller*.json"))


def test_the_job_of_a_supervisor_that_was_killed_is_cancelled_later(clusters, tmp_path):
    system = System("lsf", clusters, tmp_path / "batch")
    running = clusters.start(1, "--controller=lsf")
    running.signal(signal.SIGKILL)
    running.wait()
    clusters.ok("stop")
    assert len(system.calls("bkill")) == 1
    clusters.assert_nothing_left()


def test_a_key_is_not_put_where_others_could_ask_for_it(clusters, tmp_path):
    system = System("htcondor", clusters, tmp_path / "batch")
    done = clusters.run("start", "--controller=htcondor", "--Session.key=secret-of-ours", "--daemonize")
    assert done.returncode == 2 and "key_file" in done.stdout, done.stdout
    assert "secret-of-ours" not in done.stdout
    assert not (system.folder / "calls").exists()
    # Engines have it from the connection file.
    clusters.ok("start", "-n", "1", "--engines=htcondor", "--Session.key=secret-of-ours", "--daemonize")
    with clusters.client() as client:
        assert client[:].apply_sync(os.getenv, "IPP_SESSION_KEY") == [None]
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_dry_run_prints_both_scripts(clusters, tmp_path):
    system = System("pbs", clusters, tmp_path / "batch")
    shown = clusters.ok("start", "--dry-run", "-n", "3", "--controller=pbs", "--engines=pbs", "--", "--hwm=2")
    controller, engines = shown.split("#!/bin/sh\n")[1:]
    assert " controller --profile-dir=" in controller and "'--ip=*' --hwm=2" in controller
    assert "#PBS -t 1-3" in engines and "--hwm" not in engines
    assert not (system.folder / "calls").exists()
    clusters.assert_nothing_left()


@pytest.fixture
def mpi(clusters):
    if not shutil.which("mpiexec"):
        pytest.skip("there is no mpiexec here")
    allow_mpi(clusters)
    return clusters


def test_a_controller_under_mpiexec(mpi):
    mpi.ok("start", "-n", "1", "--controller=mpi", "--daemonize")
    with mpi.client() as client:
        assert client[:].apply_sync(abs, -2) == [2]
    assert "True" in mpi.python("list")
    mpi.ok("stop")
    mpi.assert_nothing_left()


def test_a_missing_mpiexec_is_named(mpi):
    done = mpi.run("start", "--daemonize", "--controller=mpi", "--MPILauncher.mpi_cmd=['no-mpiexec']")
    assert done.returncode == 1 and "no-mpiexec" in done.stdout, done.stdout
    mpi.assert_nothing_left()
