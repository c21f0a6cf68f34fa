#!/usr/bin/env python3
"""PBS, Grid Engine, LSF and HTCondor as far as their commands' users see them: run under a command's name, it checks what
it is given, runs the jobs as processes of this machine, and answers in the words of the real one.

Its state is in the folder $FAKE_BATCH: `calls` has a line for each call, `jobs/ID/TASK` the pid of each task.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["FAKE_BATCH"])
JOBS = FOLDER / "jobs"
# Grid Engine's commands have the names of those of PBS.
IS_SGE = os.environ.get("FAKE_BATCH_IS") == "sge"


def fail(text, code=1):
    print(text, file=sys.stderr)
    sys.exit(code)


def directives(script, prefix):
    lines = [line for line in script.splitlines() if line.startswith(prefix + " ")]
    return [words for line in lines if (words := shlex.split(line[len(prefix) :]))]


def run(tasks, argv, variables, output):
    """Starts the tasks of a new job, or lets them wait if the file `hold` is there."""
    JOBS.mkdir(exist_ok=True)
    number = str(1 + len(list(JOBS.iterdir())))
    job = JOBS / number
    job.mkdir()
    if (FOLDER / "hold").exists():
        (job / "1").write_text("held")
        return number
    for task in range(1, tasks + 1):
        environment = {**os.environ, **{name: str(task) for name in variables}, "FAKE_JOB": number}
        with open(output, "ab") as log:
            process = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (job / str(task)).write_text(str(process.pid))
    return number


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def states(number):
    """Of each task: `queued`, `running` or `ended`; nothing if there is no such job."""
    job = JOBS / number
    if not job.is_dir():
        return {}
    found = {}
    for path in job.iterdir():
        pid = path.read_text()
        found[path.name] = "queued" if pid == "held" else "running" if is_alive(pid) else "ended"
    return found


def send(number, sig):
    if not states(number):
        return False
    for path in (JOBS / number).iterdir():
        pid = path.read_text()
        if pid == "held":
            path.write_text("0")
        elif is_alive(pid):
            os.killpg(int(pid), sig)
    return True


def submit(script_path, prefix, array, output):
    script = Path(script_path).read_text()
    if not script.startswith(("#!", prefix)):
        fail(f"{script_path}: not a script")
    tasks, is_array, log = 1, False, os.devnull
    known = {"-V", "-N", "-S", "-notify", "-j", "-o", "-q", "-A", "-l", array}
    for words in directives(script, prefix):
        if words[0] not in known:
            fail(f"invalid option {words[0]}", 2)
        if words[0] == "-q" and words[1] == "nowhere":
            fail("qsub: Unknown queue nowhere" if not IS_SGE else 'Job was rejected because job requests unknown queue "nowhere"')
        if words[0] == array:
            tasks, is_array = int(re.fullmatch(r"1-(\d+)", words[1])[1]), True
        if words[0] == output:
            log = words[1]
    variable = "SGE_TASK_ID" if IS_SGE else "PBS_ARRAYID"
    return run(tasks, ["/bin/sh", script_path], [variable], log), tasks, is_array


def qsub(arguments):
    (script,) = arguments
    number, tasks, is_array = submit(script, "#$" if IS_SGE else "#PBS", "-t", "-o")
    if IS_SGE and not is_array:
        print(f'Your job {number} ("ipcontroller") has been submitted')
    elif not is_array:
        print(f"{number}.head.example.org")
    elif IS_SGE:
        print(f'Your job-array {number}.1-{tasks}:1 ("ipengine") has been submitted')
    else:
        print(f"{number}[].head.example.org")


def identifier(text):
    if IS_SGE:
        return text
    found = re.fullmatch(r"(\d+)(\[\])?", text)
    if not found:
        fail(f"qstat: Unknown Job Id {text}", 153)
    return found[1]


def qdel(arguments):
    if not send(identifier(arguments[0]), signal.SIGTERM):
        fail(f"qdel: Unknown Job Id {arguments[0]}", 153)


def qsig(arguments):
    assert arguments[0] == "-s" and not IS_SGE, arguments
    send(identifier(arguments[2]), int(arguments[1]))


def qstat(arguments):
    if IS_SGE:
        assert arguments == ["-u", "*"], arguments
        print("job-ID  prior   name       user         state submit/start at     queue                          slots ja-task-ID")
        print("-" * 110)
        for job in sorted(JOBS.iterdir()) if JOBS.is_dir() else []:
            for task, state in states(job.name).items():
                if state == "queued":
                    print(f"{job.name:>7} 0.00000 ipengine   me           qw    11/22/2026 00:00:00                   1 {task}")
                elif state == "running":
                    print(f"{job.name:>7} 0.55500 ipengine   me           r     11/22/2026 00:00:00 all.q@node1       1 {task}")
        return
    assert arguments[:2] == ["-f", "-t"], arguments
    found = states(identifier(arguments[2]))
    # Torque forgets a job soon after its end.
    if all(state == "ended" for state in found.values()):
        fail(f"qstat: Unknown Job Id Error {arguments[2]}", 153)
    for task, state in found.items():
        letter = {"queued": "Q", "running": "R", "ended": "C"}[state]
        name = f"{arguments[2][:-1]}{task}]" if arguments[2].endswith("]") else arguments[2]
        print(f"Job Id: {name}.head.example.org\n    Job_Name = ipengine\n    job_state = {letter}")
        print("    exec_host = node1/0\n" if state == "running" else "")


def bsub(arguments):
    assert not arguments, arguments
    script = sys.stdin.read()
    assert os.environ.get("LSB_STDOUT_DIRECT") == "Y"
    tasks, log = 1, os.devnull
    for words in directives(script, "#BSUB"):
        if words[0] == "-J":
            array = re.search(r"\[1-(\d+)\]$", words[1])
            tasks = int(array[1]) if array else 1
        elif words[0] == "-q" and words[1] == "nowhere":
            fail("nowhere: No such queue. Job not submitted.", 255)
        elif words[0] == "-o":
            log = words[1]
        elif words[0] not in ("-env", "-e", "-q", "-P", "-W"):
            fail(f"{words[0]}: Illegal option. Job not submitted.", 255)
    path = FOLDER / "script"
    path.write_text(script)
    number = run(tasks, ["/bin/sh", str(path)], ["LSB_JOBINDEX"], log)
    print(f"Job <{number}> is submitted to default queue <normal>.")


def bjobs(arguments):
    assert arguments[0] == "-a", arguments
    found = states(arguments[1])
    if not found:
        fail(f"Job <{arguments[1]}> is not found", 255)
    print("JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME")
    for task, state in found.items():
        letters = {"queued": "PEND", "running": "RUN", "ended": "DONE"}[state]
        host = "node1" if state != "queued" else ""
        print(f"{arguments[1]:7} me      {letters:5} normal     head        {host:11} ipengine-[{task}] Nov 22 00:00")


def bkill(arguments):
    number = int(arguments[1]) if arguments[0] == "-s" else signal.SIGTERM
    if not send(arguments[-1], number):
        fail(f"Job <{arguments[-1]}>: No matching job found", 255)
    print(f"Job <{arguments[-1]}> is being terminated")


def condor_submit(arguments):
    (path,) = arguments
    values, tasks = {}, 0
    for line in Path(path).read_text().splitlines():
        if found := re.fullmatch(r"queue(?: (\d+))?", line):
            tasks = int(found[1] or 1)
        elif "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            values[name.strip().lower()] = value.strip()
    if values.get("accounting_group") == "nowhere":
        fail("ERROR: unknown accounting group nowhere")
    assert values["universe"] == "vanilla" and values["getenv"] == "True", values
    quoted = re.fullmatch(r'"(.*)"', values["arguments"])[1].replace('""', '"')
    argv = [values["executable"], *shlex.split(quoted)]
    number = run(tasks, argv, [], values["output"])
    print(f"Submitting job(s){'.' * tasks}\n{tasks} job(s) submitted to cluster {number}.")


def condor_q(arguments):
    assert arguments[1:] == ["-af", "JobStatus", "RemoteHost", "HoldReason"], arguments
    for state in states(arguments[0]).values():
        if state == "queued":
            print("5 undefined the job is held for a test")
        elif state == "running":
            print("2 slot1@node1 undefined")


def condor_rm(arguments):
    if not send(arguments[0], signal.SIGTERM):
        fail(f"Couldn't find/remove all jobs in cluster {arguments[0]}")
    print(f"All jobs in cluster {arguments[0]} have been marked for removal")


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    with (FOLDER / "calls").open("a") as calls:
        print(json.dumps([name, *sys.argv[1:]]), file=calls)
    globals()[name](sys.argv[1:])
