"""Modes "ipyparallel" and "ipython": ipykernel's kernel, fed from the link.

ipykernel's and ipyparallel's own handlers do the work; what they send goes through `session.LinkSession`. Only apply,
the hot path, is called below its handler, at `do_apply`.
"""

import asyncio
import inspect
import os
import signal
import sys
import threading
from contextvars import copy_context
from traceback import format_exception

from ipykernel.displayhook import ZMQDisplayHook
from jupyter_client.jsonutil import json_default
from tornado.ioloop import IOLoop
from zmq.eventloop.zmqstream import ZMQStream

from . import process, shared, streams
from .link import APPLY, DONE, EXIT, MAPPED, REPLY, REQUEST, TOO_LARGE
from .messages import OK, ApplyMessage, MissingPackage, dump, error_content, load, load_header, request, text_of
from .session import IOPubChannel, LinkSession, ReplyChannel
from .signals import NO_SIGNALS, Signals

try:
    from ipyparallel.engine.kernel import IPythonParallelKernel as BaseKernel

    MODE = "ipyparallel"
except ImportError:
    from ipykernel.ipkernel import IPythonKernel as BaseKernel

    MODE = "ipython"

_COMM = {"comm_open", "comm_msg", "comm_close"}
_OUT_OF_BAND = 1024
"""ipyparallel's clients send buffers above this size in frames of their own (`ipyparallel.serialize`, `MAX_BYTES`)."""
_TASKS_TAKE_CONTEXT = sys.version_info >= (3, 11)


class MainThread:
    """Stands in for ipykernel's shell channel thread, which async cells ask for the main thread."""

    @property
    def parent_thread(self):
        return threading.main_thread()


class LinkKernel(BaseKernel):
    """The kernel of an engine. Can be made before a fork; `prepare` gives it its link and identity."""

    mode = MODE
    _execute_sleep = 0

    def __init__(self, **kwargs):
        super().__init__(session=LinkSession(), iopub_socket=IOPubChannel(), log=process.kernel_logger(), **kwargs)
        self.shell_channel_thread = MainThread()
        self.control_handlers.setdefault("clear_request", self.clear_request)
        self._tasks = {}
        self._apply_message = ApplyMessage()
        self._parent_is_apply = False
        self.session.apply_header = self._apply_message["header"]
        self._lost_loops = []
        self._told_to_end = False

    # What ipykernel does about queues and subshells is the engine's part here.

    @property
    def _supports_kernel_subshells(self):
        return False

    def _abort_queues(self, subshell_id=None):
        """The engine holds the queue, and aborts what is in it when it sees a failed execute_reply."""

    def clear_request(self, stream, ident, parent):
        self.shell.reset(False)
        self.session.send(stream, "clear_reply", {"status": "ok"}, parent, ident)

    def _cancel_on_sigint(self, future):
        """While a cell awaits, an interrupt cancels it. ipykernel's own leaves an idle event loop asleep."""
        return self.signals.cancelling(lambda: self.loop.call_soon_threadsafe(future.cancel))

    if MODE == "ipython":

        def do_apply(self, content, bufs, msg_id, reply_metadata):
            return self._error_content(MissingPackage("ipyparallel"), "apply"), []

    # Life

    def start_up(self, settings):
        """Configure the kernel for its engine and run the start-up code; see `apps`."""

    def prepare(self, link, settings):
        self.link = link
        self.settings = settings
        self.parents = streams.Parents()
        self.signals = Signals(self.log.warning, stop=self._stop_from_signal)
        self._adopt_identity()
        self._new_loop()
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        self.loop.run_until_complete(self._start_up_in_loop())
        sys.displayhook = ZMQDisplayHook(self.session, self.iopub_socket)
        self.standard = streams.Standard(link, self.parents)
        self.signals.leave_user_code()
        process.report_ready(link, self.mode, MODE == "ipyparallel" and settings.maps)

    def _adopt_identity(self):
        settings, session = self.settings, self.session
        if MODE == "ipyparallel":
            self.engine_id = settings.engine_id
        else:
            self.int_id = settings.engine_id
        self.ident = session.session = settings.engine_uuid
        session.pid = os.getpid()
        session.link, session.parents = self.link, self.parents
        self.log.addHandler(process.LinkHandler(self.link))

    def _new_loop(self):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self._have_signals_wake_the_loop()
        self.signals.install()
        self.loop.run_until_complete(self._enter_loop())

    def _have_signals_wake_the_loop(self):
        """Otherwise one that comes just before the loop falls asleep would go unnoticed."""
        self.loop.add_signal_handler(signal.SIGINT, lambda: None)
        # asyncio has Python complain of every signal that finds the buffer full: that is no loss, the loop is awake.
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)

    async def _start_up_in_loop(self):
        self.start_up(self.settings)

    async def _enter_loop(self):
        self.io_loop = IOLoop.current()
        self._control_lock = asyncio.Lock()
        self._turn = self._main_asyncio_lock = asyncio.Lock()
        self._context = copy_context()

    def serve(self):
        """Serve requests until the engine says so, a shutdown_request comes, or a cell calls exit."""
        while True:
            try:
                self.loop.add_reader(self.link.fileno(), self._on_readable)
                self.loop.run_forever()
                if self._is_to_end():
                    return
                self.log.warning("user code stopped the event loop: it goes on")
            except BaseException as error:
                if self.signals.ending:
                    return
                self._on_loop_failure(error)

    def _on_loop_failure(self, error):
        """No code of the kernel fails here. A background task of user code may exit, or a handler of a signal raise while
        a cell awaits, and the loop goes on; it cannot where user code has closed its descriptors."""
        process.mend_builtins()
        try:
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            return
        except (KeyboardInterrupt, SystemExit, TimeoutError):
            return
        except BaseException:
            self.log.warning("the event loop was lost: user code broke it (%s: %s)", type(error).__name__, text_of(error))
        # Its descriptors may be somebody else's by now: it is kept, so that nothing of it is ever closed.
        self._lost_loops.append(self.loop)
        self._new_loop()
        unfinished, self._tasks = self._tasks, {}
        for message in unfinished.values():
            self._fail(message, error)

    def _is_to_end(self):
        """Whether the engine, a SIGTERM, a cell's `exit` or a shutdown_request has stopped the loop."""
        told = self._told_to_end or self.signals.ending
        return told or self.shell.exit_now or self._shutdown_message is not None

    def _stop_from_signal(self):
        self.loop.call_soon_threadsafe(self.loop.stop)

    # Requests

    def _on_readable(self):
        try:
            self.link.receive()
            self._dispatch_received()
        except BaseException as error:
            # Nothing of the kernel raises here; a signal handler that user code left behind does.
            self.log.warning("between requests: %r", error)
            self.loop.call_soon(self._dispatch_received)

    def _dispatch_received(self):
        link = self.link
        while True:
            message = link.next()
            if message is not None:
                try:
                    self._dispatch(*message)
                except BaseException as error:
                    self._fail(_request_of(*message), error)
            elif link.partial:
                link.receive()
            else:
                return

    def _dispatch(self, tag, frames):
        # Until the request is answered, so that nobody waits for what it gives up.
        self._kept = shared.mapped()
        if tag == APPLY:
            if self._turn.locked():
                self._create_task(self._apply_in_turn(frames), _request_of(tag, frames))
            else:
                self._context.run(self._apply, frames)
        elif tag == REQUEST:
            self._on_request(*frames[:5], frames[5:])
        elif tag == MAPPED:
            self._dispatch_mapped(load(frames[0]), frames[1:])
        elif tag == EXIT:
            self._told_to_end = True
            self.loop.stop()
        elif tag == TOO_LARGE:
            raise MemoryError("no memory for this request")

    def _dispatch_mapped(self, where, frames):
        self._dispatch(APPLY, shared.with_shared(where["places"], frames))

    def _create_task(self, coroutine, message=None, context=None):
        """Run a request's handler. All share one context, so that variables set by one are seen by the next."""
        context = context or self._context
        if _TASKS_TAKE_CONTEXT:
            task = self.loop.create_task(coroutine, context=context)
        else:
            task = context.run(self.loop.create_task, coroutine)
        self._tasks[task] = message
        task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task):
        message = self._tasks.pop(task, None)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None and message is not None:
            self._fail(message, error)

    def _begin(self, message):
        raw_header = message.raw_header
        self.set_parent([], message)
        self.parents.set(raw_header)
        self.parents.current = raw_header
        self.session.current_header = message["header"]
        self._parent_is_apply = False

    def _end(self, msg_id):
        self.standard.settle()
        if self.link.disowned:
            # A child that user code forked has come back from the user's function: it is no kernel.
            os._exit(0)
        self.parents.current = self.session.current_header = None
        self.link.send(DONE, (msg_id,))
        self._kept = ()

    # Frontends that attached by bind_kernel

    def attach_frontends(self, shell_socket, control_socket, iopub):
        """Serve requests of real sockets as well, in turn with the engine's."""
        self.shell_stream = ZMQStream(shell_socket, self.io_loop)
        self.shell_stream.on_recv(lambda m: self._create_task(self._dispatch_in_turn(m)), copy=False)
        self.control_stream = ZMQStream(control_socket, self.io_loop)
        self.control_stream.on_recv(lambda m: self._create_task(self.dispatch_control(m)), copy=False)
        self.iopub_socket.bound = iopub
        self.standard.stdout.echo = self.standard.stderr.echo = self._echo

    async def _dispatch_in_turn(self, frames):
        async with self._turn:
            self._parent_is_apply = False
            await self.dispatch_shell(frames)

    def _echo(self, name, raw_header, text):
        content = {"name": name, "text": text}
        self.session.send(self.iopub_socket.bound, "stream", content, load(raw_header), ident=self._topic(name))

    def pre_handler_hook(self):
        self.signals.enter_user_code()

    def post_handler_hook(self):
        self.signals.leave_user_code()

    # apply

    def _apply(self, frames):
        header = load_header(frames[0])
        msg_id = header["msg_id"]
        self._begin_apply(header, frames)
        signals = self.signals
        try:
            signals.enter_user_code()
            content, buffers = self.do_apply({}, _writable(frames[2:]), msg_id, {})
            signals.leave_user_code()
        except BaseException as error:
            # do_apply answers for what the function raises; this is an interrupt in the middle of that.
            signals.leave_user_code()
            content, buffers = self._error_content(error, "apply"), []
        msg_id = msg_id.encode()
        if content["status"] == "ok":
            self.link.push(REPLY, (msg_id, OK, b"", *buffers))
        else:
            metadata = self._metadata(self._apply_message, content)
            # Its dates as ISO 8601: ipyparallel's hub keeps no record with any other.
            self.link.push(REPLY, (msg_id, dump(content), dump(metadata, json_default)))
        self._end(msg_id)

    def _begin_apply(self, header, frames):
        message = self._apply_message
        message.renew(header, frames)
        if not self._parent_is_apply:
            self.set_parent([], message)
            self._parent_is_apply = True
        self.parents.set(frames[0])
        self.parents.current = frames[0]

    async def _apply_in_turn(self, frames):
        async with self._turn:
            self._apply(frames)

    # everything else

    def _on_request(self, channel, raw_header, parent_header, metadata, content, buffers):
        message = request(raw_header, load(parent_header), load(metadata), load(content), buffers)
        if channel == b"control":
            self._create_task(self._handle_control(message), message)
        elif message["msg_type"] in _COMM and self._turn.locked():
            self._create_task(self._handle_comm_meanwhile(message), message, self._context.copy())
        else:
            self._create_task(self._handle_shell(message), message)

    async def _handle_shell(self, message):
        async with self._turn:
            self._begin(message)
            await self._handle(self.shell_handlers, message, self.signals)
            self._end(message["msg_id"].encode())

    async def _handle_control(self, message):
        async with self._control_lock:
            self.set_parent([], message, channel="control")
            await self._handle(self.control_handlers, message)
            self._done(message)

    async def _handle_comm_meanwhile(self, message):
        """A comm message that a cell may be awaiting: handled beside it, with itself as the parent of its outputs."""
        cell = self.get_parent("shell")
        self.set_parent([], message)
        await self._handle(self.shell_handlers, message)
        self.set_parent([], cell)
        self._parent_is_apply = False
        self._done(message)

    def _fail(self, message, error):
        """Answer a request whose handling failed. Where it was answered before that, the engine takes no second answer."""
        process.mend_builtins()
        try:
            self._reply_error(ReplyChannel(message["msg_id"]), message, error)
        finally:
            if self.parents.current == message.raw_header:
                self.parents.current = self.session.current_header = None
            self._done(message)

    def _done(self, message):
        self.standard.settle()
        self.link.send(DONE, (message["msg_id"].encode(),))
        self._kept = ()

    async def _handle(self, handlers, message, signals=NO_SIGNALS):
        """Call the handler; whatever comes of it, the request has one reply."""
        # The reply ends the user's code: an interrupt that comes too late must not cost the request its reply.
        channel = ReplyChannel(message["msg_id"], signals.leave_user_code)
        try:
            signals.enter_user_code()
            handler = handlers.get(message["msg_type"])
            if handler is None:
                raise LookupError("this kernel does not know %r" % message["msg_type"])
            result = handler(channel, [], message)
            if inspect.isawaitable(result):
                await result
            if not channel.replied and message["msg_type"] not in _COMM:
                raise ValueError("this %s lacks something" % message["msg_type"])
            signals.leave_user_code()
        except BaseException as error:
            process.mend_builtins()
            signals.leave_user_code()
            self._reply_error(channel, message, error)

    def _reply_error(self, channel, message, error):
        method = message["msg_type"].rpartition("_")[0]
        content = self._error_content(error, method)
        if message["msg_type"] in _COMM:
            self.log.warning("%s: %s", message["msg_type"], "\n".join(content["traceback"]))
        else:
            metadata = self._metadata(message, content)
            self.session.send(channel, method + "_reply", content, message, metadata=metadata)

    def _error_content(self, error, method):
        try:
            traceback = format_exception(type(error), error, error.__traceback__)
        except BaseException:
            # An exception may have any __str__, and other ways to be no help.
            traceback = []
        return dict(error_content(error, traceback), engine_info=self.settings.engine_info(method))

    def _metadata(self, message, content):
        # ipyparallel asks with get(), which does not load what an ApplyMessage has not been asked for yet.
        message["metadata"] = message["metadata"]
        metadata = self.finish_metadata(message, self.init_metadata(message), content)
        # Of now; the engine knows when the request began.
        metadata.pop("started", None)
        return metadata


def _request_of(tag, frames):
    """The request that a message is, as far as an answer needs it."""
    if tag == TOO_LARGE:
        tag, *frames = frames
    return request(bytes(frames[0] if tag == APPLY else frames[1]), {}, {}, {}, [])


def _writable(buffers):
    """The buffers of a request, such that arrays made of them can be changed in place, as in ipyparallel's engines."""
    return [bytearray(one) if type(one) is bytes and len(one) > _OUT_OF_BAND else one for one in buffers]
