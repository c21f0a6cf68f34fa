"""Cells that await, and what comes meanwhile."""

import json
import os
import signal

import engine
import marks

pytestmark = marks.ipykernel

WAITING = "import asyncio\nevent = asyncio.Event()\nprint('waiting')\nawait event.wait()\nprint('over')"


def begin_waiting(kernel, code=WAITING):
    msg_id = kernel.post("execute_request", {"code": code, "silent": False})
    kernel.until(lambda m: m.tag == engine.STREAM and m.frames[2] == b"waiting")
    return msg_id


def test_interrupt_of_an_awaiting_cell(kernel):
    # Often: it may come at any point of the event loop's way to sleep.
    for _ in range(50):
        msg_id = begin_waiting(kernel)
        os.kill(kernel.pid, signal.SIGINT)
        assert kernel.finish(msg_id).error["ename"] in ("CancelledError", "KeyboardInterrupt")


def test_control_requests_are_served_meanwhile(kernel):
    msg_id = begin_waiting(kernel)
    usage = kernel.request("usage_request", {}, channel=b"control")
    assert usage.reply["pid"] == kernel.pid
    os.kill(kernel.pid, signal.SIGINT)
    kernel.finish(msg_id).error


def test_comms_are_served_meanwhile(kernel):
    register = (
        "from ipykernel.comm import Comm\n"
        "def opened(comm, message):\n"
        "    @comm.on_msg\n"
        "    def got(message):\n"
        "        print('of the comm'); event.set(); comm.send({'back': message['content']['data']})\n"
        "get_ipython().kernel.comm_manager.register_target('t', opened)"
    )
    kernel.execute(register).ok
    kernel.request("comm_open", {"comm_id": "c1", "target_name": "t", "data": {}})
    assert kernel.request("comm_info_request", {}).reply["comms"] == {"c1": {"target_name": "t"}}
    cell = begin_waiting(kernel)
    comm = kernel.post("comm_msg", {"comm_id": "c1", "data": {"n": 1}})
    result = kernel.finish(cell).ok
    by_text = {m.frames[2]: m.frames[1] for m in result.iopub if m.tag == engine.STREAM}
    assert by_text[b"over"] == b""
    assert json.loads(by_text[b"of the comm"])["msg_id"] == comm
    (sent,) = [m for m in result.iopub if m.tag == engine.IOPUB and m.frames[0] == b"comm_msg"]
    assert json.loads(sent.frames[3])["data"] == {"back": {"n": 1}}
    assert json.loads(sent.frames[1])["msg_id"] == comm


def test_background_tasks_keep_their_cell(kernel):
    code = (
        "import asyncio\n"
        "ready = asyncio.Event()\n"
        "async def f():\n"
        "    await ready.wait()\n"
        "    print('background')\n"
        "task = asyncio.ensure_future(f())"
    )
    origin = kernel.post("execute_request", {"code": code, "silent": False})
    kernel.finish(origin).ok
    result = kernel.execute("ready.set(); await task; print('own')").ok
    parents = {m.frames[2]: m.frames[1] for m in result.iopub if m.tag == engine.STREAM}
    assert json.loads(parents[b"background"])["msg_id"] == origin
    assert parents[b"own"] == b""


def test_context_variables_last(kernel):
    kernel.execute("import contextvars; v = contextvars.ContextVar('v', default=0)").ok
    kernel.execute("v.set(5)").ok
    import sys

    if sys.version_info >= (3, 11):
        assert kernel.execute("v.get()").shown == "5"


def test_stopping_on_error_is_left_to_the_engine(kernel):
    assert kernel.execute("await asyncio.nothing()").error
    assert kernel.execute("1").ok


def test_a_loop_that_user_code_stops_goes_on(kernel):
    kernel.execute("import asyncio\nasyncio.get_event_loop().stop()").ok
    kernel.execute("asyncio.get_event_loop().call_soon(asyncio.get_event_loop().stop)").ok
    assert kernel.execute("await asyncio.sleep(0); print('still here')").ok.streams() == "still here\n"


AN_ALARM_MEANWHILE = """
import asyncio, os, signal, threading

def late(signum, frame):
    raise TimeoutError("late")

def wake():
    os.kill(os.getpid(), signal.SIGALRM)
    loop.call_soon_threadsafe(done.set_result, 7)

signal.signal(signal.SIGALRM, late)
loop = asyncio.get_running_loop()
done = loop.create_future()
threading.Thread(target=wake).start()
await done
"""


def test_an_alarm_while_a_cell_awaits(kernel):
    """It may come in the cell's own code; otherwise the loop goes on, and the cell with it."""
    for _ in range(20):
        result = kernel.execute(AN_ALARM_MEANWHILE)
        assert result.reply["status"] == "ok" or result.reply["ename"] == "TimeoutError"
        assert kernel.execute("6 * 7").shown == "42"
