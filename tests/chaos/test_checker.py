"""The checker finds what is wrong: a history that is right, and the same with one thing broken."""

import checker
import history
import pytest

CLIENT = "client-1"


def event(at, what, who=CLIENT, **more):
    return {"at": at, "who": who, "what": what, **more}


def submitted(at, msg_id, kind="task", after=(), may_fail=False):
    more = {"task": f"t-{msg_id}", "value": 2, "kind": kind, "after": list(after), "may_fail": may_fail}
    return event(at, "submitted", msg_id=msg_id, **more)


def replied(at, msg_id, ename=None, value=2):
    if ename:
        return event(at, "replied", msg_id=msg_id, ok=False, ename=ename, evalue="")
    return event(at, "replied", msg_id=msg_id, ok=True, value=value)


def ran(at, msg_id, until=None):
    task = f"t-{msg_id}"
    return [event(at, "begun", "kernel 7", task=task), event(until or at + 0.1, "done", "kernel 7", task=task)]


def found(msg_id, ename=None, **more):
    outcome = {"ok": False, "ename": ename} if ename else {"ok": True, "value": 2}
    return event(900, "found", "nemesis", msg_id=msg_id, **{"completed": True, **outcome, **more})


def fault(name, since, until):
    return [event(since, "fault", "nemesis", name=name), event(until, "healed", "nemesis", name=name)]


def whole():
    """Two tasks, one of which waits for the other."""
    return [
        submitted(100, "a"),
        event(100.1, "accepted", msg_id="a"),
        *ran(100.2, "a"),
        replied(100.4, "a"),
        event(100.5, "stored", msg_id="a"),
        submitted(100.6, "b", kind="after", after=["a"]),
        *ran(100.7, "b"),
        replied(100.9, "b"),
        event(101, "ended", open=0),
        found("a"),
        found("b"),
        event(901, "audited", "nemesis"),
    ]


def judge(events):
    return checker.check(sorted(events, key=lambda one: one["at"]))[0]


def without(what, **which):
    """The whole history but one kind of event."""
    kept = [one for one in whole() if one["what"] != what or any(one.get(name) != is_ for name, is_ in which.items())]
    assert len(kept) < len(whole())
    return kept


def test_a_right_history_is_found_right():
    wrong, figures = checker.check(whole())
    assert wrong == []
    assert (figures["requests"], figures["accepted"], figures["stored"], figures["answered"]) == (2, 1, 1, 2)


BROKEN = {
    "the hub does not know it": without("found", msg_id="a"),
    "never ended": [*without("found", msg_id="a"), found("a", completed=False)],
    "is lost": [*without("found", msg_id="a"), found("a", completed=False)],
    "the hub has 3 in place of 2": [*without("found", msg_id="b"), found("b", value=3)],
    "the hub has EngineError": [*without("found", msg_id="b"), found("b", ename="EngineError")],
    "the client got 3 in place of 2": [*without("replied", msg_id="b"), replied(100.9, "b", value=3)],
    "the client got TaskAborted": [*without("replied", msg_id="b"), replied(100.9, "b", ename="TaskAborted")],
    "the client got ImpossibleDependency": [
        *without("replied", msg_id="b"),
        replied(100.9, "b", ename="ImpossibleDependency"),
    ],
    "the client got RuntimeError": [*without("replied", msg_id="b"), replied(100.9, "b", ename="RuntimeError")],
    "was answered at 100.90 and again": [*whole(), replied(100.95, "b")],
    "was never answered": without("replied", msg_id="b"),
    "ran 2 times": [*whole(), *ran(100.75, "b")],
    "and never ran": [one for one in whole() if one.get("task") != "t-b" or one["what"] not in ("begun", "done")],
    "which it waits for": [
        *[one for one in whole() if one.get("task") != "t-a" or one["what"] not in ("begun", "done")],
        *ran(100.2, "a", until=100.85),
    ],
    "leak: a file": [*whole(), event(902, "leak", "nemesis", text="a file")],
    "end: it ended with -6": [*whole(), event(902, "end", "nemesis", text="it ended with -6")],
    "the audit did not come to its end": without("audited"),
    "a value where the function fails": [*whole(), submitted(100.1, "c", may_fail=True), *ran(100.2, "c"),
                                         replied(100.3, "c"), found("c")],
}  # fmt: skip


@pytest.mark.parametrize("said", BROKEN)
def test_what_is_broken_is_found(said):
    wrong = judge(BROKEN[said])
    assert any(said in one for one in wrong), wrong


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("kernel killed", [*without("replied", msg_id="b"), replied(100.9, "b", ename="EngineError")]),
        ("engines killed", [*whole(), *ran(100.75, "b")]),
        ("controller killed", [*whole(), replied(100.95, "b")]),
        ("controller killed", without("replied", msg_id="b")),
        ("clients' link down", without("replied", msg_id="b")),
    ],
)
def test_a_fault_excuses_what_comes_of_it_and_nothing_else(name, events):
    assert judge([*events, *fault(name, 100.7, 100.8)]) == []
    assert judge([*events, *fault("clock jumps", 100.7, 100.8)]) != []
    # Long before, and long after.
    assert judge([*events, *fault(name, 10, 11)]) != []
    assert judge([*events, *fault(name, 800, 801)]) != []


def test_an_aborted_task_is_not_tried_again():
    failed = [submitted(100, "c", kind="retries"), *ran(100.1, "c"), replied(100.5, "c", ename="RuntimeError"), found("c")]
    assert any("RuntimeError" in one for one in judge([*whole(), *failed]))
    assert judge([*whole(), *failed, event(100.3, "aborting", msg_id="c")]) == []


def test_an_engine_that_left_long_ago_may_be_asked_by_a_client_that_has_not_heard_of_it():
    late = submitted(300, "c", kind="direct")
    refused = {**replied(300.1, "c", ename="EngineError"), "evalue": "no engine x is registered"}
    events = [*whole(), late, refused, found("c", ename="EngineError", evalue="no engine x is registered")]
    killed = fault("engines killed", 150, 150.1)
    assert any("EngineError" in one for one in judge([*events, *killed]))
    assert judge([*events, *killed, *fault("clients' link down", 149, 152)]) == []


@pytest.mark.parametrize("broken", ["the hub does not know it", "is lost", "the hub has 3 in place of 2", "leak: a file"])
def test_no_fault_excuses_losses(broken):
    everything = [one for name in (*checker.ENGINE_LOST, *checker.CLIENT_LINK) for one in fault(name, 50, 1000)]
    assert any(broken in one for one in judge([*BROKEN[broken], *everything]))


def test_a_fault_that_was_never_healed_lasts():
    events = [*without("replied", msg_id="b"), event(100.65, "fault", "nemesis", name="clients' link down")]
    assert judge(events) == []


def test_histories_are_read_in_the_order_of_time_and_torn_lines_are_left_out(tmp_path):
    one, other = (history.Writer(tmp_path / f"{name}.jsonl", name) for name in ("one", "other"))
    one("begun", task="a")
    other("begun", task="b")
    one("done", task="a")
    with (tmp_path / "one.jsonl").open("a") as file:
        file.write('{"at": 1, "who"')
    assert [(event["who"], event["what"]) for event in history.read(tmp_path)] == [
        ("one", "begun"),
        ("other", "begun"),
        ("one", "done"),
    ]
    assert history.number([[4, ""]]) == history.number([4, ""]) == 4
