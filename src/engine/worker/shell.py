"""Mode "ipython" without ipykernel: IPython's InteractiveShell on the link."""

from platform import python_version
from traceback import print_exception

from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.release import version
from IPython.utils.tokenutil import token_at_cursor
from traitlets import Type

from .config import traitlets_config
from .messages import error_content, text_of
from .serial import SerialKernel


class LinkDisplayHook(DisplayHook):
    """Publishes a cell's result."""

    def write_output_prompt(self):
        """The prompt's number goes out with the data."""

    def write_format_data(self, format_dict, md_dict=None):
        content = {"data": format_dict, "metadata": md_dict or {}, "execution_count": self.prompt_count}
        self.shell.serial_kernel.publish("execute_result", content)

    def finish_displayhook(self):
        """Nothing was begun."""


class LinkDisplayPublisher(DisplayPublisher):
    """Publishes what display() is given."""

    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **kwargs):
        content = {"data": data, "metadata": metadata or {}, "transient": transient or {}}
        kernel = InteractiveShell.instance().serial_kernel
        kernel.publish("update_display_data" if update else "display_data", content)

    def clear_output(self, wait=False):
        InteractiveShell.instance().serial_kernel.publish("clear_output", {"wait": wait})


class LinkShell(InteractiveShell):
    displayhook_class = Type(LinkDisplayHook)
    display_pub_class = Type(LinkDisplayPublisher)
    serial_kernel = None
    last_error = None

    def _showtraceback(self, etype, evalue, stb):
        content = {"ename": etype.__name__, "evalue": text_of(evalue), "traceback": list(stb)}
        self.last_error = content
        self.serial_kernel.publish("error", content)

    def ask_exit(self):
        self.serial_kernel.ending = True


class ShellKernel(SerialKernel):
    mode = "ipython"

    def __init__(self, config):
        super().__init__()
        config = traitlets_config(config)
        config.HistoryManager.hist_file = ":memory:"
        self.shell = LinkShell.instance(config=config, user_ns={})
        self.shell.serial_kernel = self

    def start_up(self):
        settings, shell = self.settings, self.shell
        for configurable in (shell, *shell.configurables):
            configurable.update_config(traitlets_config(settings.config))
        settings.init_mpi(shell.user_ns)
        for code in settings.exec_lines:
            self._show_failure(shell.run_cell(code, store_history=False))
        for path in settings.exec_files:
            shell.safe_execfile_ipy(path, raise_exceptions=False)

    def _show_failure(self, result):
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            print_exception(type(error), error, error.__traceback__)

    def on_execute_request(self, content):
        code, silent = content["code"], content.get("silent", False)
        shell = self.shell
        shell.last_error = None
        if not silent:
            self.publish("execute_input", {"code": code, "execution_count": shell.execution_count})
        result = shell.run_cell(code, store_history=content.get("store_history", not silent), silent=silent)
        # IPython counts only what it keeps in its history.
        count = shell.execution_count - 1
        error = result.error_before_exec or result.error_in_exec
        reply = {"status": "ok", "execution_count": count, "payload": shell.payload_manager.read_payload()}
        shell.payload_manager.clear_payload()
        if error is None:
            expressions = content.get("user_expressions") or {}
            return dict(reply, user_expressions=shell.user_expressions(expressions))
        failed = shell.last_error or error_content(error)
        return {
            **reply,
            **failed,
            "status": "error",
            "user_expressions": {},
            "engine_info": self.settings.engine_info("execute"),
        }

    def on_clear_request(self, content):
        self.shell.reset(False)
        return {"status": "ok"}

    def on_complete_request(self, content):
        code, cursor = content["code"], content.get("cursor_pos", len(content["code"]))
        with provisionalcompleter():
            found = list(rectify_completions(code, self.shell.Completer.completions(code, cursor)))
        start, end = (found[0].start, found[0].end) if found else (cursor, cursor)
        matches = [completion.text for completion in found]
        return {"status": "ok", "matches": matches, "cursor_start": start, "cursor_end": end, "metadata": {}}

    def on_inspect_request(self, content):
        name = token_at_cursor(content["code"], content.get("cursor_pos", 0))
        try:
            data = self.shell.object_inspect_mime(name, detail_level=content.get("detail_level", 0))
        except KeyError:
            data = {}
        return {"status": "ok", "found": bool(data), "data": data, "metadata": {}}

    def on_is_complete_request(self, content):
        status, indent = self.shell.input_transformer_manager.check_complete(content["code"])
        return {"status": status, "indent": " " * (indent or 0)}

    def on_history_request(self, content):
        history = self.shell.history_manager.get_range(
            content.get("session", 0), content.get("start", 1), content.get("stop"), raw=content.get("raw", True)
        )
        return {"status": "ok", "history": list(history)}

    def on_kernel_info_request(self, content):
        return {
            "status": "ok",
            "protocol_version": "5.3",
            "implementation": "ipython",
            "implementation_version": version,
            "language_info": {
                "name": "python",
                "version": python_version(),
                "mimetype": "text/x-python",
                "file_extension": ".py",
                "pygments_lexer": "ipython3",
            },
            "banner": self.shell.banner,
            "help_links": [],
        }


def build(config):
    return ShellKernel(config)
