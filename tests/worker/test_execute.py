"""execute_request and its relatives, in every mode."""

import json
import os
import platform
import signal
import sys

import engine
import marks
import pytest

AT_EXIT = "import atexit, os; atexit.register(lambda: os.write(1, b'bye\\n'))"


def test_ready_says_what_the_kernel_is(start):
    ready = start().ready
    assert ready["mode"] == marks.EXPECTED_MODE
    assert ready["python"] == platform.python_version()
    assert ready["executable"] == sys.executable


def test_result_and_input(kernel):
    result = kernel.execute("6 * 7").ok
    (shown,) = result.published("execute_result")
    assert shown["data"]["text/plain"] == "42"
    (echo,) = result.published("execute_input")
    assert echo["code"] == "6 * 7"
    assert shown["execution_count"] == echo["execution_count"] == result.reply["execution_count"]
    assert all(m.frames[1] == b"" for m in result.iopub), "outputs of the running request need no parent"
    assert "status" not in [m.frames[0] for m in result.iopub]


def test_silent(kernel):
    before = kernel.execute("1").reply["execution_count"]
    result = kernel.execute("print('x'); 5", silent=True).ok
    assert not result.published("execute_result") and not result.published("execute_input")
    assert result.streams() == "x\n"
    assert kernel.execute("1").reply["execution_count"] == before + 1


def test_error(kernel):
    result = kernel.execute("def f():\n    return 1 / 0\nf()")
    assert result.error["ename"] == "ZeroDivisionError"
    assert result.error["evalue"] == "division by zero"
    assert "f()" in result.traceback
    assert result.error["engine_info"] == {"engine_id": 3, "engine_uuid": "uuid-3", "method": "execute"}
    (shown,) = result.published("error")
    assert shown["ename"] == "ZeroDivisionError"


def test_syntax_error(kernel):
    assert kernel.execute("1 +").error["ename"] in ("SyntaxError", "_IncompleteInputError")


def test_user_expressions(kernel):
    reply = kernel.execute("a = 3", user_expressions={"good": "a + 1", "bad": "nothing_of_this_name"}).ok.reply
    assert reply["user_expressions"]["good"]["data"]["text/plain"] == "4"
    assert reply["user_expressions"]["bad"]["ename"] == "NameError"


def test_streams_in_order(kernel):
    result = kernel.execute("import sys\nprint('a'); print('b', file=sys.stderr); print('c')").ok
    streams = [(m.frames[0], m.frames[2]) for m in result.iopub if m.tag == engine.STREAM]
    assert [text for name, text in streams if text != b"\n"] == [b"a", b"b", b"c"]
    assert result.streams("stderr") == "b\n"


def test_ten_thousand_prints(kernel):
    result = kernel.execute("for i in range(10000): print(i)").ok
    assert result.streams() == "".join(f"{i}\n" for i in range(10000))


def test_large_and_odd_text(kernel):
    result = kernel.execute("print('x' * 5_000_000)").ok
    assert len(result.streams()) == 5_000_001
    text = kernel.execute(r"print('grün', '\udc80', '\ud800', chr(0x1F600)); '\udc80'").ok
    assert text.streams().startswith("grün ") and text.streams().endswith(chr(0x1F600) + "\n")
    assert text.published("execute_result")


def test_stdout_buffer_and_fileno(kernel):
    code = "import sys, os\nsys.stdout.buffer.write(b'bytes\\n'); n = os.write(sys.stdout.fileno(), b'below\\n')"
    assert kernel.execute(code).ok.streams() == "bytes\n"
    assert kernel.read_stdout(6) == b"below\n"


@pytest.mark.parametrize(
    "break_it",
    [
        "sys.stdout.close()",
        "sys.stdout = None",
        "sys.stdout = 5",
        "sys.stdout = open('/dev/null', 'w'); sys.stdout.close()",
    ],
)
def test_stdout_broken_by_user_code(start, break_it):
    kernel = start()
    kernel.execute(f"import sys; {break_it}")
    assert kernel.execute("print('again')").ok.streams() == "again\n"


def test_subprocess_output_goes_to_the_descriptor(kernel):
    kernel.execute("import subprocess, sys; subprocess.check_call([sys.executable, '-c', 'print(123)'])").ok
    assert kernel.read_stdout(4) == b"123\n"


def test_namespace_is_main(kernel):
    result = kernel.execute(
        "import sys, pickle\n"
        "class C: pass\n"
        "print(__name__, C.__module__, sys.modules['__main__'].C is C, type(pickle.loads(pickle.dumps(C()))) is C)\n"
        "print(sys.path[0] == '', sys.argv)"
    ).ok
    assert result.streams() == "__main__ __main__ True True\nTrue ['ipengine']\n"


def test_traceback_shows_the_source(kernel):
    kernel.execute("def inner():\n    raise ValueError('here it is')").ok
    text = kernel.execute("inner()").traceback
    assert "raise ValueError" in text
    assert "ipcluster_kernel" not in text


def test_exception_whose_str_raises(kernel):
    result = kernel.execute(
        "class Odd(Exception):\n"
        "    def __str__(self): raise RuntimeError('no text')\n"
        "    __repr__ = __str__\n"
        "raise Odd()"
    )
    assert result.error


def test_result_whose_repr_raises(kernel):
    kernel.execute("class NoRepr:\n    def __repr__(self): raise RuntimeError('no repr')\nNoRepr()")
    assert kernel.execute("1").ok


def test_recursion(kernel):
    assert kernel.execute("def f(): return f()\nf()").error["ename"] == "RecursionError"


@pytest.mark.parametrize(
    "code", ["import sys; sys.exit(3)", "raise SystemExit", "raise KeyboardInterrupt", "raise GeneratorExit"]
)
def test_base_exceptions_leave_the_kernel_alive(kernel, code):
    assert kernel.execute(code).error
    assert kernel.execute("1").ok


@pytest.mark.parametrize("name", ["len", "tuple"])
@pytest.mark.parametrize("harm", ["del builtins.{}", "builtins.{} = None", "del builtins.{}; undefined"])
def test_builtins_that_are_taken_away(start, harm, name):
    """Nothing works without them; but every request is answered, and the kernel lives."""
    kernel = start()
    kernel.execute("import builtins; " + harm.format(name))
    for _ in range(3):
        kernel.execute("1 / 0")
    assert kernel.execute("print(len(range(3)))").ok.streams() == "3\n"


def test_interrupt_of_synchronous_code(kernel):
    msg_id = kernel.post("execute_request", {"code": "print('begun')\nwhile True: pass", "silent": False})
    kernel.until(lambda m: m.tag == engine.STREAM)
    os.kill(kernel.pid, signal.SIGINT)
    assert kernel.finish(msg_id).error["ename"] == "KeyboardInterrupt"


def test_the_traceback_of_an_interrupt_ends_at_the_user_s_line(kernel):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass"
    error = kernel.execute(code).error
    assert error["ename"] == "KeyboardInterrupt"
    traceback = "".join(error["traceback"])
    assert "Traceback" in traceback
    assert "ipcluster_kernel" not in traceback


def test_user_code_finds_python_s_own_handler_of_interrupts(kernel):
    code = "import signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    assert kernel.execute(code).ok
    assert kernel.execute(code.replace("assert", "signal.signal(signal.SIGINT, signal.SIG_IGN); assert not")).ok
    assert kernel.execute(code).ok, "a request's own handler is gone with it"


def test_interrupts_between_requests_are_ignored(kernel):
    for _ in range(20):
        os.kill(kernel.pid, signal.SIGINT)
        assert kernel.execute("1", silent=True).reply["status"] in ("ok", "error")
    assert kernel.execute("1").reply
    os.kill(kernel.pid, signal.SIGINT)
    kernel.execute("1")
    assert kernel.execute("2").ok


def test_interrupts_never_break_the_link(kernel):
    """Interrupts in the middle of a flood of output: every message stays whole, and there is one reply."""
    for _ in range(5):
        code = "import sys\nwhile True: sys.stdout.write('x' * 3000)"
        msg_id = kernel.post("execute_request", {"code": code, "silent": True})
        for _ in range(200):
            message = kernel.link.receive()
            assert message.tag == engine.STREAM and set(message.frames[2]) == {ord("x")}
        os.kill(kernel.pid, signal.SIGINT)
        result = kernel.finish(msg_id)
        assert result.error["ename"] == "KeyboardInterrupt"
        assert set(result.streams()) <= {"x"}


def test_alarms_never_break_the_link(kernel):
    """A handler of the user's own that raises, at any point of a write."""
    code = """
import signal, sys
class Alarm(Exception): pass
def ring(*_): raise Alarm
signal.signal(signal.SIGALRM, ring)
caught = 0
while caught < 300:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        while True: sys.stdout.write('y' * 70000)
    except Alarm:
        caught += 1
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    result = kernel.execute(code).ok
    assert set(result.streams()) == {"y"}
    assert all(len(m.frames[2]) == 70000 for m in result.iopub if m.tag == engine.STREAM)


def test_signal_handlers_of_user_code_do_not_outlive_the_request(kernel):
    kernel.execute("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)").ok
    msg_id = kernel.post("execute_request", {"code": "print('begun')\nwhile True: pass", "silent": False})
    kernel.until(lambda m: m.tag == engine.STREAM)
    os.kill(kernel.pid, signal.SIGINT)
    assert kernel.finish(msg_id).error["ename"] == "KeyboardInterrupt"


def test_threads_print_with_a_parent(kernel):
    kernel.execute("import threading; go = threading.Event()").ok
    late = "threading.Thread(target=lambda: (go.wait(), print('late', flush=True))).start()"
    first = kernel.post("execute_request", {"code": f"print('now'); {late}", "silent": False})
    assert kernel.finish(first).streams() == "now\n"
    second = kernel.post("execute_request", {"code": "go.set(); threading.Event().wait(0.2)", "silent": False})
    assert "late" in kernel.finish(second).streams()


def test_thread_output_after_the_request_names_its_parent(kernel):
    code = "import threading, time\nt = threading.Timer(0.2, lambda: print('after'))\nt.start()"
    msg_id = kernel.post("execute_request", {"code": code, "silent": False})
    kernel.finish(msg_id).ok
    message, _ = kernel.until(lambda m: m.tag == engine.STREAM and m.frames[2] == b"after")
    assert json.loads(message.frames[1])["msg_id"] == msg_id
    kernel.execute("t.join()").ok


def test_fork_in_user_code(kernel):
    """A child keeps off the link; what it prints goes to its descriptor; coming back to the kernel ends it."""
    result = kernel.execute("import os\npid = os.fork()\nprint('x' if pid else 'child', flush=True)").ok
    assert result.streams() == "x\n"
    assert kernel.read_stdout(6) == b"child\n"
    assert kernel.execute("os.waitpid(pid, 0)[1]").shown == "0"


def test_multiprocessing(kernel):
    code = (
        "import multiprocessing\n"
        "context = multiprocessing.get_context('fork')\n"
        "def square(x): return x * x\n"
        "with context.Pool(2) as pool: print(pool.map(square, range(4)))"
    )
    assert kernel.execute(code).ok.streams() == "[0, 1, 4, 9]\n"


def test_pools_end_however_soon(kernel):
    code = (
        "import multiprocessing\n"
        "context = multiprocessing.get_context('fork')\n"
        "for _ in range(30):\n"
        "    with context.Pool(2) as pool: pool.map(abs, [-1])\n"
        "print('all')"
    )
    assert kernel.execute(code).ok.streams() == "all\n"


def test_sigterm_ends_what_user_code_forks(kernel):
    code = (
        "import os, signal, time\n"
        "there, tell = os.pipe()\n"
        "if not (pid := os.fork()):\n"
        "    os.write(tell, b'.')\n"
        "    while True:\n"
        "        try: time.sleep(60)\n"
        "        except BaseException: pass\n"
        "os.read(there, 1); os.kill(pid, signal.SIGTERM)\n"
        "print(os.waitpid(pid, 0)[1], signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    )
    assert kernel.execute(code).ok.streams() == "15 False\n"


def test_chdir_and_environment(start, tmp_path):
    (tmp_path / "beside_me.py").write_text("here = 5")
    kernel = start(work_dir=str(tmp_path), env={"OF_THE_ENGINE": "7", "HOME_OF_NONE": None})
    code = "import os, beside_me; print(os.getcwd() == %r, os.environ['OF_THE_ENGINE'], beside_me.here)"
    assert kernel.execute(code % str(tmp_path.resolve())).ok.streams() == "True 7 5\n"
    kernel.execute("os.chdir('/'); os.rmdir").ok
    assert kernel.execute("os.getcwd()").ok


def test_what_lies_beside_the_start_is_found_from_elsewhere(start, tmp_path, monkeypatch):
    """As by ipyparallel's engines: their `python -m` has the folder where it began."""
    (tmp_path / "beside_the_start.py").write_text("here = 6")
    monkeypatch.chdir(tmp_path)
    kernel = start()
    kernel.execute("import os; os.chdir('/')").ok
    assert kernel.execute("import beside_the_start; beside_the_start.here").shown == "6"


def test_exec_lines_and_files(start, tmp_path):
    script = tmp_path / "start.py"
    script.write_text("from_file = from_line + 1")
    kernel = start(exec_lines=["from_line = from_mpi + 1", "1 / 0"], exec_files=[str(script)], mpi_init="from_mpi = 1")
    assert kernel.execute("from_mpi, from_line, from_file").shown == "(1, 2, 3)"


def test_close_all_descriptors(start):
    """As daemonizing code does, up to the limit of open files."""
    kernel = start()
    code = "import os, resource\nos.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])\nprint('closed')"
    assert kernel.execute(code).ok.streams() == "closed\n"
    assert kernel.execute("1 + 1").ok.published("execute_result")


def test_end_of_the_link_ends_the_kernel(start):
    kernel = start()
    kernel.link.close()
    assert kernel.wait() == 1


def test_end_of_the_link_during_output_ends_the_kernel(start):
    kernel = start()
    kernel.post("execute_request", {"code": "while True: print('x' * 1000)", "silent": False})
    kernel.until(lambda m: m.tag == engine.STREAM)
    kernel.link.close()
    assert kernel.wait() == 1


def test_exit_runs_atexit_functions(start):
    kernel = start()
    kernel.execute(AT_EXIT).ok
    kernel.link.send(engine.EXIT)
    assert kernel.wait() == 0
    assert kernel.read_stdout(4) == b"bye\n"


def test_sigterm_ends_in_order(start):
    kernel = start()
    kernel.execute(AT_EXIT).ok
    os.kill(kernel.pid, signal.SIGTERM)
    assert kernel.wait() == 0
    assert kernel.read_stdout(4) == b"bye\n"


def test_sigterm_ends_running_code(start):
    kernel = start()
    kernel.post("execute_request", {"code": "print('begun')\nwhile True: pass", "silent": False})
    kernel.until(lambda m: m.tag == engine.STREAM)
    os.kill(kernel.pid, signal.SIGTERM)
    assert kernel.wait() == 0


@pytest.mark.parametrize("restart", [True, False])
def test_shutdown_request(start, restart):
    kernel = start()
    reply = kernel.request("shutdown_request", {"restart": restart}, channel=b"control").ok.reply
    assert reply["restart"] is restart
    assert kernel.link.ends()
    assert kernel.wait() == 0


def test_hard_exit(start):
    kernel = start()
    kernel.post("execute_request", {"code": "import os; os._exit(7)", "silent": False})
    assert kernel.wait() == 7


def test_clear_request(kernel):
    kernel.execute("to_be_cleared = 1").ok
    kernel.request("clear_request", {}, channel=b"control").ok
    assert kernel.execute("to_be_cleared").error["ename"] == "NameError"


def test_complete(kernel):
    kernel.execute("some_long_name = 1").ok
    reply = kernel.request("complete_request", {"code": "some_lo", "cursor_pos": 7}).ok.reply
    assert "some_long_name" in reply["matches"]
    assert (reply["cursor_start"], reply["cursor_end"]) == (0, 7)


@pytest.mark.parametrize("code, status", [("a = 1", "complete"), ("for i in x:", "incomplete"), ("a = = 1", "invalid")])
def test_is_complete(kernel, code, status):
    assert kernel.request("is_complete_request", {"code": code}).reply["status"] == status


def test_kernel_info_and_the_rest(kernel):
    assert kernel.request("kernel_info_request", {}).ok.reply["language_info"]["name"] == "python"
    assert kernel.request("comm_info_request", {}).ok.reply["comms"] == {}
    assert kernel.request("usage_request", {}, channel=b"control").reply["pid"] == kernel.pid
    assert kernel.request("inspect_request", {"code": "len", "cursor_pos": 2, "detail_level": 0}).ok
    assert kernel.request("history_request", {"hist_access_type": "range", "raw": True, "output": False}).ok


@pytest.mark.parametrize("channel", [b"shell", b"control"])
def test_unknown_and_malformed_requests_are_answered(kernel, channel):
    assert kernel.request("nonsense_request", {}, channel=channel).error
    assert kernel.request("execute_request", {}, channel=channel).error
    assert kernel.request("execute_request", b"{not json", channel=channel).error


def test_display_of_bytes_and_nan(kernel):
    assert kernel.execute("float('nan')").ok.published("execute_result")


@marks.no_ipyparallel
def test_apply_names_the_missing_package(kernel):
    result = kernel.finish(kernel.post_apply_buffers([b"1", b"2"]))
    assert "ipyparallel" in result.error["evalue"] and sys.executable in result.error["evalue"]
    assert result.error["engine_info"]["method"] == "apply"


@marks.ipython
def test_magics_display_and_history(kernel):
    result = kernel.execute("from IPython.display import display, HTML\n%env X_OF_TEST=1\ndisplay(HTML('<b>'))").ok
    assert result.published("display_data")[0]["data"]["text/html"] == "<b>"
    assert "%env" in kernel.execute("%history -l 1").ok.streams() or kernel.execute("%history").ok.streams()
    assert kernel.execute("len(In) > 1, _ih is In").shown == "(True, True)"


@marks.ipython
def test_top_level_await(kernel):
    assert kernel.execute("import asyncio\nawait asyncio.sleep(0.01)\n'slept'").ok.published("execute_result")


@marks.ipython
def test_configuration(start):
    kernel = start(config={"InteractiveShell": {"ast_node_interactivity": "all", "cache_size": "77"}})
    assert len(kernel.execute("1\n2").ok.published("execute_result")) == 2
    assert kernel.execute("get_ipython().cache_size").shown == "77"


@marks.ipython
@pytest.mark.parametrize("code", ["exit", "quit()"])
def test_exit_in_a_cell(start, code):
    kernel = start()
    kernel.execute(code)
    assert kernel.wait() == 0


@marks.ipython
def test_bad_configuration_is_a_failure_with_a_reason(start):
    kernel = start(config={"InteractiveShell": {"ast_node_interactivity": "sometimes"}})
    assert kernel.ready or kernel.failed["ename"] == "TraitError"
