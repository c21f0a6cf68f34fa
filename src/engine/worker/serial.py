"""The request loop of the modes without ipykernel: one request after the other, no event loop."""

import os
import socket

from . import process, streams
from .link import APPLY, DONE, EXIT, IOPUB, REPLY, REQUEST
from .messages import MissingPackage, dump, error_content, load, request
from .signals import Signals


class SerialKernel:
    """Subclasses execute code; request types are methods `on_<msg_type>(content) -> reply content`."""

    mode = None

    def __init__(self):
        self.parents = streams.Parents()
        self.log = process.kernel_logger()
        self.signals = Signals(self.log.warning)
        self.ending = False

    def start_up(self):
        """Configure the kernel for its engine and run the start-up code."""

    def prepare(self, link, settings):
        self.link = link
        self.settings = settings
        self.signals.install()
        self.start_up()
        self.standard = streams.Standard(link, self.parents)
        process.report_ready(link, self.mode)

    def serve(self):
        try:
            while not (self.ending or self.signals.ending):
                self._dispatch(*self.link.wait())
        except SystemExit:
            # SIGTERM
            return

    def publish(self, msg_type, content, metadata=None):
        self.link.send(IOPUB, (msg_type.encode(), self.parents.frame(), dump(metadata or {}), dump(content)))

    def _dispatch(self, tag, frames):
        if tag == EXIT:
            self.ending = True
        elif tag == APPLY:
            self._handle(True, frames[0], lambda: self._refuse_apply())
        elif tag == REQUEST:
            channel, raw_header, _, _, content = frames[:5]
            self._handle(channel == b"shell", raw_header, lambda: self._call(raw_header, content))

    def _handle(self, on_shell, raw_header, call):
        header = load(raw_header)
        msg_id = header["msg_id"].encode()
        self.parents.set(raw_header)
        if on_shell:
            self.parents.current = raw_header
        try:
            self.signals.enter_user_code()
            try:
                content = call()
            finally:
                process.mend_builtins()
            self.signals.leave_user_code()
        except BaseException as error:
            self.signals.leave_user_code()
            if self.signals.ending:
                raise
            method = header["msg_type"].rpartition("_")[0]
            content = dict(error_content(error), engine_info=self.settings.engine_info(method))
        self.standard.settle()
        if self.link.disowned:
            # A child that user code forked has come back from the user's code: it is no kernel.
            os._exit(0)
        self.parents.current = None
        if content is not None:
            self.link.push(REPLY, (msg_id, dump(content), b""))
        self.link.send(DONE, (msg_id,))

    def _call(self, raw_header, content):
        message = request(raw_header, {}, {}, load(content), ())
        handler = getattr(self, "on_" + message["msg_type"], None)
        if handler is None:
            raise LookupError("this kernel does not know %r" % message["msg_type"])
        return handler(message["content"])

    def _refuse_apply(self):
        raise MissingPackage("ipyparallel")

    # Requests that do not touch the user's code

    def on_shutdown_request(self, content):
        self.ending = True
        return {"status": "ok", "restart": content.get("restart", False)}

    def on_interrupt_request(self, content):
        return {"status": "ok"}

    def on_comm_info_request(self, content):
        return {"status": "ok", "comms": {}}

    def on_usage_request(self, content):
        return {"hostname": socket.gethostname(), "pid": os.getpid(), "cpu_count": os.cpu_count()}

    def on_comm_open(self, content):
        """Comms need ipykernel; a comm message has no reply in which to say so."""

    on_comm_msg = on_comm_close = on_comm_open
