"""A pytest plugin that writes what became of each test into $IPCLUSTER_RESULTS, one JSON object a line."""

import json
import os


def write(**entry):
    with open(os.environ["IPCLUSTER_RESULTS"], "a") as file:
        file.write(json.dumps(entry) + "\n")


def name(nodeid):
    """`test_view.py::TestView::test_x`; pytest's id may begin with any path, or none."""
    return f"{os.environ['IPCLUSTER_FILE']}::{nodeid.partition('::')[2]}"


def pytest_collection_finish(session):
    for item in session.items:
        write(test=name(item.nodeid), outcome="not finished", why="")


def pytest_runtest_logreport(report):
    if report.failed:
        outcome = "failed"
    elif report.skipped:
        outcome = "expected failure" if hasattr(report, "wasxfail") else "skipped"
    elif report.when == "call":
        outcome = "passed"
    else:
        return
    why = ""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = crash.message.splitlines()[0] if crash and crash.message else str(report.longrepr)[-200:]
    elif report.skipped and isinstance(report.longrepr, tuple):
        why = report.longrepr[2]
    write(test=name(report.nodeid), outcome=outcome, why=why)
