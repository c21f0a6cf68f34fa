"""ipyparallel of the oldest version that works under today's Pythons, of 7, of 8 and the newest, with this program.

Each version lives in an environment of its own, target/versions/VERSION, and spends a client's day (session.py) on each
mixture of its own programs and these. Whatever works with its own controller and engines has to work with these; what
does not work there either is said. The table of what was found is printed at the end, and is in README.md beside this.
"""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import every_python
import programs
import psutil
import pytest
from programs import CHECKOUT, wait_until

HERE = Path(__file__).resolve().parent
VERSIONS = sorted(path.stem for path in (HERE / "requirements").iterdir())
SESSION_LIMIT = 240

# (controller, engines, client); "its" are the version's own, "our" engines run the version's Python.
MIXTURES = {
    "all its own": ("its", "its", "its"),
    "all its own, newest client": ("its", "its", "newest"),
    "our controller, our engines": ("our", "our", "its"),
    "our controller, its engines": ("our", "its", "its"),
    "its controller, our engines": ("its", "our", "its"),
    "our controller, its engines, newest client": ("our", "its", "newest"),
}
BASELINES = {"its": "all its own", "newest": "all its own, newest client"}

# What ipyparallel's engines do only now and then, with its own controller as with ours: an abort that comes while they are
# at work finds what they have queued, or does not.
NOW_AND_THEN = {"aborts"}

FOUND = {}


def python_for(version):
    """The newest Python of this machine that this ipyparallel takes."""
    newest = re.search(r"# up to Python 3\.(\d+)", requirements(version).read_text())
    if not newest:
        return sys.executable
    usable = {minor: path for minor, path in every_python.pythons().items() if minor <= int(newest[1])}
    if not usable:
        pytest.skip(f"ipyparallel {version} takes no Python of this machine: it needs 3.{newest[1]} or older")
    return usable[max(usable)]


def requirements(version):
    return HERE / "requirements" / f"{version}.txt"


def environment(version, python):
    """The interpreter of an environment with this ipyparallel, made by this Python."""
    folder = CHECKOUT / "target/versions" / f"{version}-{Path(python).resolve().name}"
    make = [python, CHECKOUT / "tests/python_environment.py", folder, requirements(version), "3.9"]
    made = subprocess.run(make, stdout=subprocess.PIPE, text=True, check=False)
    assert made.returncode == 0, f"no environment with ipyparallel {version} could be made"
    return made.stdout.strip()


def spend_a_day(folder, version, mixture):
    """{check: what became of it}"""
    controller, engines, client = MIXTURES[mixture]
    base = python_for(version)
    python = environment(version, base)
    with programs.a_place(folder) as place:
        place.environment["VIRTUAL_ENV"] = str(Path(python).parent.parent)
        # Nobody's modules but their own.
        del place.environment["PYTHONPATH"]
        if controller == "our":
            place.controller("--dictdb", "--ping=250")
        else:
            own = ["--HeartMonitor.period=250", "--HubFactory.db_class=ipyparallel.controller.dictdb.DictDB"]
            place.start([python, "-m", "ipyparallel.controller", "--init", *own])
            wait_until(lambda: place.client_file().exists() and place.engine_file().exists(), "the controller's files")
        if engines == "our":
            place.engines(2)
        else:
            for _ in range(2):
                place.start([python, "-m", "ipyparallel.engine"])
        client = python if client == "its" else environment(VERSIONS[-1], base)
        session = place.start([client, HERE / "session.py", place.client_file()])
        try:
            session.wait(SESSION_LIMIT)
            return json.loads(session.output.splitlines()[-1])
        except (AssertionError, ValueError, IndexError):
            outputs = "\n\n".join(f"{one.command}\n{one.output}" for one in place.programs)
            raise AssertionError(f"the session came to no end:\n{outputs}") from None
        finally:
            print(session.output)
            # ipyparallel's own programs do not end in every version when they are told to, or leave others behind.
            for process in place.remaining():
                with contextlib.suppress(psutil.Error):
                    if {"ipyparallel.controller", "ipyparallel.engine"} & set(process.cmdline()):
                        process.kill()


def found(version, mixture, tmp_path_factory):
    """What the day was like; each is spent once."""
    if (version, mixture) not in FOUND:
        folder = tmp_path_factory.mktemp("ipython")
        FOUND[version, mixture] = spend_a_day(folder, version, mixture)
    return FOUND[version, mixture]


@pytest.fixture(scope="module", autouse=True)
def table():
    """Tells of all that was found, in the form in which README.md has it."""
    yield
    lines = []
    for version in VERSIONS:
        for mixture in MIXTURES:
            day = FOUND.get((version, mixture))
            if day is None:
                continue
            works = sum(result == "works" for result in day.values())
            there = sum(result != "is not there" for result in day.values())
            wrong = [name.replace("_", " ") for name, result in day.items() if result not in ("works", "is not there")]
            lines.append(f"| {version} | {mixture} | {works} of {there} | {', '.join(wrong)} |")
    report = CHECKOUT / "target/versions/table.md"
    report.write_text("\n".join(["| version | who is whose | works | does not |", "|---|---|---|---|", *lines, ""]))
    print(report.read_text())


@pytest.mark.parametrize("mixture", [mixture for mixture in MIXTURES if mixture not in BASELINES.values()])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.timeout(4 * SESSION_LIMIT)
def test_what_works_with_its_own_programs_works_with_ours(version, mixture, tmp_path_factory):
    _, engines, client = MIXTURES[mixture]
    try:
        own = found(version, BASELINES[client], tmp_path_factory)
    except AssertionError:
        assert client == "newest"
        pytest.skip(f"the newest client comes to no end with the programs of ipyparallel {version}")
    ours = found(version, mixture, tmp_path_factory)
    assert ours.keys() == own.keys()
    excused = NOW_AND_THEN if engines == "its" else set()
    worse = {name: result for name, result in ours.items() if own[name] == "works" and result != "works"}
    worse = {name: result for name, result in worse.items() if name not in excused}
    assert not worse
