"""Runs ipyparallel's own tests against this project's programs.

    python3 tests/conformance/run.py [--ours both|controller|engine|none] [--curve] [TEST_FILE ...]

The pinned ipyparallel is installed from PyPI into .venv of the checkout. Its tests start everything as
`python -m ipyparallel.NAME`; site/sitecustomize.py starts ours instead. What does not pass must stand in expected.txt,
with its cause, and what stands there must not pass: anything else fails the run.

`--ours` says which of the programs are ours; the others are ipyparallel's:
  both         this controller and this engine, and this ipcluster where the tests call it (the default)
  controller   this controller, ipyparallel's engine
  engine       ipyparallel's controller, this engine
  none         ipyparallel's both, to see what fails without us
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

import python_environment  # noqa: E402

REPLACES = {
    "both": "cluster,controller,engine",
    "controller": "controller",
    "engine": "engine",
    "none": "",
}

# All but two: test_mongodb.py tests a Python class alone and needs a server, test_slurm.py the containers of its own
# continuous integration. Those at the end test ipyparallel's Python classes: they show that what is installed is whole.
FILES = [
    "test_view.py",
    "test_view_broadcast.py",
    "test_lbview.py",
    "test_asyncresult.py",
    "test_client.py",
    "test_magics.py",
    "test_dependency.py",
    "test_remotefunction.py",
    "test_joblib.py",
    "test_executor.py",
    "test_label.py",
    "test_async.py",
    "test_cluster.py",
    "test_apps.py",
    "test_mpi.py",
    "test_ssh.py",
    "test_shellcmd.py",
    "test_launcher.py",
    "test_db.py",
    "test_canning.py",
    "test_serialize.py",
    "test_util.py",
]

# In which a file's tests have to be through; each test has its own, much shorter limit.
FILE_LIMIT = 1200
MARK = "IPCLUSTER_TEST_RUN"


def main():
    # What is ignored here, as under nohup or in the background of a script, is ignored by all that is started.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = arguments()
    python = python_environment.make(CHECKOUT / ".venv", HERE.parent / "requirements.txt")
    if Path(sys.prefix) != python.parent.parent:
        os.execv(python, [str(python), *sys.argv])
    binary = Path(options.binary).absolute()
    if options.ours != "none" and not os.access(binary, os.X_OK):
        sys.exit(f"error: {binary} is not there: build it first (cargo build), or set $IPCLUSTER_BIN")

    expected = read_expected(HERE / "expected.txt", options.ours)
    results = {}
    left_behind = []
    for file in options.files:
        found, processes = run_file(file, options, binary, python)
        results.update(found)
        left_behind += processes
    return report(results, expected, left_behind, options)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", choices=REPLACES, default="both")
    parser.add_argument(
        "--binary",
        default=os.environ.get("IPCLUSTER_BIN") or CHECKOUT / "target/debug/ipcluster",
        help="the ipcluster to test [default: $IPCLUSTER_BIN, or target/debug/ipcluster]",
    )
    parser.add_argument("--curve", action="store_true", help="encrypt all connections")
    parser.add_argument("files", nargs="*", default=FILES, metavar="TEST_FILE", help=f"[default: {' '.join(FILES)}]")
    return parser.parse_args()


def run_file(file, options, binary, python):
    """What became of the file's tests, and the processes that were left behind."""
    ours = options.ours
    work = CHECKOUT / "target" / "conformance" / ours / file
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("home", "tmp"):
        (work / folder).mkdir(parents=True)
    log = work / "log.txt"
    outcomes = work / "results.jsonl"
    outcomes.touch()
    mark = uuid.uuid4().hex
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("IPP_", "PYTEST_"))},
        MARK: mark,
        # As in ipyparallel's own continuous integration.
        "IPP_ENABLE_CURVE": "1" if options.curve else "0",
        "IPCLUSTER_BIN": str(binary),
        "IPCLUSTER_REPLACES": REPLACES[ours],
        "IPCLUSTER_FILE": file,
        "IPCLUSTER_RESULTS": str(outcomes),
        "HOME": str(work / "home"),
        "IPYTHONDIR": str(work / "ipython"),
        "JUPYTER_CONFIG_DIR": str(work / "jupyter"),
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(HERE / "site"),
        "TMPDIR": str(work / "tmp"),
        "VIRTUAL_ENV": str(python.parent.parent),
        # More engines than processors, and perhaps as root: Open MPI wants to be told.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-p", "report_results", "-rA", "--tb=short"]
    # As in ipyparallel's pyproject.toml, which its wheel does not have.
    command += ["-o", "asyncio_mode=auto"]
    command += ["-o", "faulthandler_timeout=100", "--pyargs", f"ipyparallel.tests.{Path(file).stem}"]
    print(f"{file} ... ", end="", flush=True)
    started = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(FILE_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    left_behind = end_what_is_left(mark)
    found = {}
    for line in outcomes.read_text().splitlines():
        entry = json.loads(line)
        # A test that failed stays failed, whatever its fixtures' end says.
        if found.get(entry["test"], ("",))[0] != "failed":
            found[entry["test"]] = (entry["outcome"], entry["why"])
    if not found:
        found[f"{file}"] = ("failed", f"no test was collected: see {log}")
    print(f"{counts(found)} in {time.monotonic() - started:.0f} s (log: {log.relative_to(CHECKOUT)})", flush=True)
    shutil.rmtree(work / "tmp", ignore_errors=True)
    return found, [f"{file}: {process}" for process in left_behind]


def end_what_is_left(mark):
    """Kills the processes of a run that outlived it by more than a moment, and describes those that are not ipyparallel's."""
    import psutil

    def running():
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    deadline = time.monotonic() + 15
    while (processes := running()) and time.monotonic() < deadline:
        time.sleep(0.1)
    described = []
    for process in processes:
        try:
            command = " ".join(process.cmdline())
            # ipyparallel's own controller now and then leaves some of its processes behind when it is killed.
            if "-m ipyparallel." not in command:
                described.append(f"{process.pid} {command[:120]}")
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue
    return described


def read_expected(path, ours):
    """{test: cause} of those that do not pass with these programs."""
    expected = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            which, test, cause = line.split(maxsplit=2)
        except ValueError:
            sys.exit(f"error: {path}:{number}: it takes a combination, a test and its cause")
        unknown = set(which.split(",")) - set(REPLACES) - {"all"}
        if unknown:
            sys.exit(f"error: {path}:{number}: no such combination: {', '.join(unknown)}")
        if which == "all" or ours in which.split(","):
            expected[test] = cause
    return expected


def counts(results):
    outcomes = [outcome for outcome, _ in results.values()]
    return ", ".join(
        f"{outcomes.count(outcome)} {outcome}"
        for outcome in ("passed", "failed", "not finished", "skipped", "expected failure")
        if outcome in outcomes or outcome in ("passed", "failed")
    )


def report(results, expected, left_behind, options):
    failed = {test: why for test, (outcome, why) in results.items() if outcome in ("failed", "not finished")}
    ran_files = {Path(file).name for file in options.files}
    of_this_run = {test: why for test, why in expected.items() if test.partition("::")[0] in ran_files}
    new = {test: why for test, why in failed.items() if test not in of_this_run}
    known = {test: why for test, why in of_this_run.items() if test in failed}
    mended = [test for test in of_this_run if results.get(test, ("",))[0] in ("passed", "expected failure")]
    unknown = [test for test in of_this_run if test not in results]

    skipped = {}
    for test, (outcome, why) in results.items():
        if outcome == "skipped":
            skipped.setdefault(why, []).append(test)
    for why, tests in sorted(skipped.items()):
        print(f"skipped by ipyparallel's suite itself, {len(tests)}: {why}")
    for test, cause in known.items():
        print(f"does not pass, as expected: {test}: {cause}")
    for test, why in new.items():
        print(f"FAILED, and is not in expected.txt: {test}: {why}")
    for test in mended:
        print(f"PASSED, so its line in expected.txt is to go: {test}")
    for test in unknown:
        print(f"NO SUCH TEST, so its line in expected.txt is to go: {test}")
    for process in left_behind:
        print(f"LEFT RUNNING (and killed now): {process}")
    bad = len(new) + len(mended) + len(unknown) + len(left_behind)
    print(f"ipyparallel's own tests with --ours={options.ours}: {counts(results)}; {len(known)} expected not to pass")
    print("conformance: " + ("as expected" if not bad else f"{bad} differences from expected.txt"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
