"""Mode "plain": a bare CPython. Cells are executed; the value of a last expression is the result."""

import ast
import codeop
import linecache
import platform
import re
import rlcompleter
import sys
import types
from traceback import format_exception, print_exc

from .messages import error_content
from .serial import SerialKernel


class PlainKernel(SerialKernel):
    mode = "plain"

    def __init__(self):
        super().__init__()
        self.count = 0
        self.main = types.ModuleType("__main__")
        sys.modules["__main__"] = self.main
        self.reset()

    @property
    def namespace(self):
        return self.main.__dict__

    def reset(self):
        self.namespace.clear()
        self.namespace.update(__name__="__main__", __doc__=None, __builtins__=__builtins__, In=[""], Out={})

    def start_up(self):
        settings = self.settings
        settings.init_mpi(self.namespace)
        for code in settings.exec_lines:
            self._run_start_up(lambda code=code: self.run(code, "<exec_lines>"))
        for path in settings.exec_files:
            self._run_start_up(lambda path=path: self.run_file(path))

    def _run_start_up(self, call):
        """A failing line or file prints its traceback and does not keep the engine from starting."""
        try:
            call()
        except Exception:
            print_exc()

    def run_file(self, path):
        with open(path, encoding="utf-8") as file:
            exec(compile(file.read(), path, "exec"), self.namespace)

    def run(self, code, filename):
        """Execute `code`; the value of its last statement if that is an expression, else None."""
        linecache.cache[filename] = (len(code), None, code.splitlines(True), filename)
        tree = ast.parse(code, filename)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, filename, "exec"), self.namespace)
        if last is None:
            return None
        return eval(compile(ast.Expression(last.value), filename, "eval"), self.namespace)

    def on_execute_request(self, content):
        code, silent = content["code"], content.get("silent", False)
        if not silent:
            self.count += 1
            self.namespace["In"].append(code)
            self.publish("execute_input", {"code": code, "execution_count": self.count})
        try:
            value = self.run(code, "<cell %d>" % self.count)
            if value is not None and not silent:
                self._show(value)
            expressions = {k: self._evaluate(v) for k, v in (content.get("user_expressions") or {}).items()}
        except BaseException as error:
            self.signals.leave_user_code()
            if self.signals.ending:
                raise
            return dict(self._failed(error), execution_count=self.count, payload=[], user_expressions={})
        return {"status": "ok", "execution_count": self.count, "payload": [], "user_expressions": expressions}

    def _show(self, value):
        self.namespace["_"] = self.namespace["Out"][self.count] = value
        bundle = {"data": {"text/plain": repr(value)}, "metadata": {}, "execution_count": self.count}
        self.publish("execute_result", bundle)

    def _failed(self, error):
        content = error_content(error, user_traceback(error))
        shown = {key: content[key] for key in ("ename", "evalue", "traceback")}
        self.publish("error", shown)
        return dict(content, engine_info=self.settings.engine_info("execute"))

    def _evaluate(self, expression):
        try:
            value = eval(expression, self.namespace)
            return {"status": "ok", "data": {"text/plain": repr(value)}, "metadata": {}}
        except Exception as error:
            return error_content(error, user_traceback(error))

    def on_clear_request(self, content):
        self.reset()
        return {"status": "ok"}

    def on_complete_request(self, content):
        cursor = content.get("cursor_pos", len(content["code"]))
        word = re.search(r"[\w.]*$", content["code"][:cursor]).group()
        completer = rlcompleter.Completer(self.namespace)
        matches = []
        while word and (match := completer.complete(word, len(matches))) is not None:
            matches.append(match)
        start = cursor - len(word)
        return {"status": "ok", "matches": matches, "cursor_start": start, "cursor_end": cursor, "metadata": {}}

    def on_inspect_request(self, content):
        return {"status": "ok", "found": False, "data": {}, "metadata": {}}

    def on_is_complete_request(self, content):
        try:
            compiled = codeop.compile_command(content["code"], "<input>", "exec")
        except (SyntaxError, OverflowError, ValueError):
            return {"status": "invalid"}
        return {"status": "complete"} if compiled else {"status": "incomplete", "indent": ""}

    def on_history_request(self, content):
        inputs = self.namespace.get("In", [""])
        return {"status": "ok", "history": [[0, n, code] for n, code in enumerate(inputs) if n]}

    def on_kernel_info_request(self, content):
        version = platform.python_version()
        return {
            "status": "ok",
            "protocol_version": "5.3",
            "implementation": "python",
            "implementation_version": version,
            "language_info": {
                "name": "python",
                "version": version,
                "mimetype": "text/x-python",
                "file_extension": ".py",
                "pygments_lexer": "python3",
            },
            "banner": "Python %s" % sys.version,
            "help_links": [],
        }


def user_traceback(error):
    """The traceback's text, from where user code begins."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").startswith(__package__):
        traceback = traceback.tb_next
    try:
        return "".join(format_exception(type(error), error, traceback)).splitlines()
    except Exception:
        # The exception's own __str__ or __repr__ fails.
        return []


def build(config):
    """`config` is for IPython's classes; there are none here."""
    return PlainKernel()
