"""Engines as jobs of batch systems that cannot be had here, whose commands are answered by `fake_batch_system.py`."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from cluster_fixtures import clusters, wait_until  # noqa: F401
from test_dashboard import Dashboard

COMMANDS = {
    "pbs": ("qsub", "qdel", "qstat", "qsig"),
    "sge": ("qsub", "qdel", "qstat"),
    "lsf": ("bsub", "bjobs", "bkill"),
    "htcondor": ("condor_submit", "condor_rm", "condor_q"),
}
SETS = {name: f"{name.upper()}EngineSetLauncher" for name in ("pbs", "sge", "lsf")}
SETS["htcondor"] = "HTCondorEngineSetLauncher"


class System:
    """One of the systems, and the clusters whose engines it runs."""

    def __init__(self, name, clusters, folder):
        self.name = name
        self.clusters = clusters
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        program = Path(__file__).with_name("fake_batch_system.py")
        for command in COMMANDS[name]:
            path = folder / "bin" / command
            # Its own name tells it what it is.
            path.write_text(f"#!{sys.executable}\n" + program.read_text())
            path.chmod(0o755)
        clusters.env["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        clusters.env["FAKE_BATCH"] = str(folder)
        clusters.env["FAKE_BATCH_IS"] = name

    def calls(self, command):
        lines = (self.folder / "calls").read_text().splitlines()
        return [call[1:] for call in map(json.loads, lines) if call[0] == command]

    def arguments(self, n):
        return ("-n", str(n), f"--engines={self.name}", "--ip=127.0.0.1")


@pytest.fixture(params=COMMANDS)
def system(request, clusters, tmp_path):
    return System(request.param, clusters, tmp_path / "batch")


def test_engines_run_as_a_job_and_end_with_the_cluster(system):
    clusters = system.clusters
    clusters.ok("start", *system.arguments(2), "--daemonize")
    (job,) = clusters.run_file()["jobs"]
    assert job["launcher"] == system.name
    with clusters.client() as client:
        assert client.ids == [0, 1]
        assert client[:].apply_sync(os.getenv, "FAKE_JOB") == ["1", "1"]
        # What others can ask a batch system for holds no key.
        assert client[:].apply_sync(os.getenv, "IPP_CONNECTION_INFO") == [None, None]
    listed = clusters.python("list")
    assert " 2 " in listed and "True" in listed, listed
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_a_job_that_waits_is_shown_and_can_be_taken_back(system):
    clusters = system.clusters
    (system.folder / "hold").touch()
    running = clusters.spawn("start", *system.arguments(1))
    running.wait_for_line("the engines: waiting in the queue")
    clusters.ok("stop")
    assert running.wait() == 130
    delete = {"pbs": "qdel", "sge": "qdel", "lsf": "bkill", "htcondor": "condor_rm"}
    assert len(system.calls(delete[system.name])) == 1
    clusters.assert_nothing_left()


def test_a_job_that_ends_by_itself_is_noticed(system):
    clusters = system.clusters
    running = clusters.start(2, *system.arguments(2)[2:])
    with clusters.client() as client:
        client.shutdown(targets="all", hub=False, block=True)
    running.wait_for_line("the engines have ended")
    clusters.ok("stop")
    assert running.wait() == 0
    clusters.assert_nothing_left()


def test_what_the_system_refuses_is_told_in_its_words(system):
    clusters = system.clusters
    setting = "account" if system.name == "htcondor" else "queue"
    done = clusters.run(
        "start", *system.arguments(1), f"--{SETS[system.name]}.{setting}=nowhere", "--daemonize"
    )
    assert done.returncode == 1
    assert "has refused the script" in done.stdout and "nowhere" in done.stdout
    clusters.assert_nothing_left()


def test_missing_commands_are_named(system):
    clusters = system.clusters
    shutil.rmtree(system.folder / "bin")
    # There may be a real one on this machine.
    clusters.env["PATH"] = str(system.folder / "bin")
    done = clusters.run("start", *system.arguments(1), "--daemonize")
    assert done.returncode == 1
    assert "there is no command" in done.stdout and "submit_command" in done.stdout
    clusters.assert_nothing_left()


def test_signals_are_passed_on_where_there_is_a_command(system):
    clusters = system.clusters
    running = clusters.start(1, *system.arguments(1)[2:])
    running.signal(10)
    if system.name in ("pbs", "lsf"):
        command = {"pbs": "qsig", "lsf": "bkill"}[system.name]
        wait_until(lambda: system.calls(command), "the signal")
        assert system.calls(command)[0][:2] == ["-s", "10"]
    else:
        running.wait_for_line("no command for signals")
    clusters.ok("stop")
    assert running.wait() == 0
    clusters.assert_nothing_left()


def test_dry_run_prints_the_script_and_submits_nothing(clusters, tmp_path):
    system = System("pbs", clusters, tmp_path / "batch")
    template = tmp_path / "template"
    template.write_text("#!/bin/sh\n#PBS -l nodes={n//4}:ppn=4 -q {queue}\n{program_and_args}\n")
    shown = clusters.ok(
        "start",
        "--dry-run",
        *system.arguments(8),
        f"--PBSEngineSetLauncher.batch_template_file={template}",
        "--PBSLauncher.queue=long",
    )
    assert "\n#PBS -l nodes=2:ppn=4 -q long\n" in shown and " engine --profile-dir=" in shown
    assert not (system.folder / "calls").exists()
    template.write_text("#!/bin/sh\n{quue}\n")
    done = clusters.run(
        "start",
        "--dry-run",
        *system.arguments(8),
        f"--PBSEngineSetLauncher.batch_template_file={template}",
    )
    assert done.returncode == 2
    assert 'line 2: {quue}: there is no "quue", did you mean "queue"?' in done.stdout
    done = clusters.run("start", "--dry-run", "--engines=local")
    assert done.returncode == 2 and "--engines=slurm" in done.stdout
    clusters.assert_nothing_left()


def test_engines_are_added_as_a_job_of_their_own(system):
    clusters = system.clusters
    clusters.ok("start", "-n", "1", "--daemonize")
    clusters.ok("engines", *system.arguments(2)[:3], "--daemonize")
    with clusters.client() as client:
        assert client.ids == [0, 1, 2]
        assert client[1:].apply_sync(os.getenv, "FAKE_JOB") == ["1", "1"]
    clusters.ok("stop")
    clusters.assert_nothing_left()


def test_logs_of_jobs_are_rotated(system):
    clusters = system.clusters
    clusters.profile_dir.mkdir()
    settings = clusters.profile_dir / "ipcluster.toml"
    settings.write_text('[log]\nlevel = "debug"\nmax_size = 400\nkeep = 2\n')
    clusters.ok("start", *system.arguments(2), "--daemonize")
    with clusters.client() as client:
        client[:].apply_sync(os.getpid)
        # Kernels are not told: they have logs of their own, if any.
        assert client[:].apply_sync(os.getenv, "IPCLUSTER_ROTATES_LOG") == [None, None]
    clusters.ok("stop")
    clusters.assert_nothing_left()
    logs = {path.name: path.read_text() for path in (clusters.profile_dir / "log").glob("ipengine-*.log*")}
    logs = {name: text for name, text in logs.items() if not name.endswith(".events")}
    endings = {name.partition(".log")[2] for name in logs}
    assert endings == {"", ".1", ".2"}, sorted(logs)
    # What two engines write at the same moment may go beyond it by a line.
    assert all(len(text) <= 800 or text.count("\n") == 1 for text in logs.values()), {name: len(text) for name, text in logs.items()}


def test_engines_that_wait_in_a_queue_are_on_the_status_page(system):
    clusters = system.clusters
    (system.folder / "hold").touch()
    running = clusters.spawn("start", *system.arguments(2), "--dashboard")
    running.wait_for_line("the engines: waiting in the queue")
    dashboard = Dashboard(clusters)
    (expected,) = wait_until(
        lambda: [one for one in dashboard.state()["expected"] if one["state"] == "queued"], "the engines that are to come"
    )
    assert expected["engines"] == 2 and expected["note"]
    assert "2 starting" in clusters.ok("top")
    clusters.ok("stop")
    assert running.wait() == 130
    clusters.assert_nothing_left()


@pytest.mark.parametrize(
    ("said", "is_warned"),
    [
        ([], True),
        (["--ip=*"], False),
        (["--", "--ip=*"], False),
        (["--IPController.engine_ip=*"], False),
        (["--LocalControllerLauncher.controller_args=['--ip=*']"], False),
        (["--ip=*", "--", "--ip=127.0.0.1"], True),
        (["--controller=pbs"], False),
        (["--controller=pbs", "--", "--ip=127.0.0.1"], True),
    ],
)
def test_a_controller_that_they_cannot_reach_is_warned_of(clusters, tmp_path, said, is_warned):
    system = System("pbs", clusters, tmp_path / "batch")
    told = clusters.ok("start", "-n", "1", "--engines=pbs", "--daemonize", *said)
    assert ("engines on other machines cannot reach it" in told) == is_warned, told
    clusters.ok("stop")
    assert system.calls("qsub")
    clusters.assert_nothing_left()
