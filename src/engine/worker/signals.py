"""When SIGINT becomes KeyboardInterrupt, and how SIGTERM ends a kernel."""

import os
import signal
from contextlib import contextmanager
from _signal import default_int_handler, getsignal, signal as set_handler  # Those of `signal` make enums: 5 us each.

from .messages import text_of

_SIGINT = int(signal.SIGINT)
_TERMINATE = {signal.SIGTERM}
_OTHERS = tuple(int(s) for s in signal.Signals if s < 32 and s not in (signal.SIGINT, signal.SIGKILL, signal.SIGSTOP))
_TRIES = 5


class Signals:
    """SIGINT raises only in user code; SIGTERM ends the kernel in order, out of user code if need be.

    While user code runs, SIGINT has Python's own handler, as in ipykernel: a traceback ends at the user's line, and
    libraries that look at the handler find what they know.

    Handlers that user code has left behind are called at any time, but what they raise, they raise in user code: an alarm
    that comes too late ends nothing but itself.
    """

    def __init__(self, warn, stop=None):
        self.in_user_code = False
        self.ending = False
        self._warn = warn
        self._stop = stop
        """Wakes the event loop for its end; None where there is none."""
        self._own = ()
        """Handlers of the other signals as they are without user code."""
        self._guards = {}
        """{signal: (handler of user code, what stands in for it outside of user code)}"""

    def install(self):
        set_handler(_SIGINT, _ignore)
        signal.signal(signal.SIGTERM, self._on_terminate)
        self._own = self._own or tuple(map(getsignal, _OTHERS))
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINATE),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERMINATE),
            after_in_child=self._leave_termination_to_the_system,
        )

    def _leave_termination_to_the_system(self):
        """In a process that user code has forked: SIGTERM ends it, at any moment.

        One that came while it starts would be lost with a handler of Python's, and a pool of multiprocessing, which ends
        its processes so, would wait for ever.
        """
        if signal.getsignal(signal.SIGTERM) == self._on_terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERMINATE)

    def enter_user_code(self):
        """From here on a signal may raise."""
        self.in_user_code = True
        set_handler(_SIGINT, default_int_handler)
        if self._guards:
            for number, (handler, guard) in self._guards.items():
                if getsignal(number) is guard:
                    set_handler(number, handler)

    def leave_user_code(self):
        """From here on none does, whatever handlers the user's code has left."""
        self.in_user_code = False
        for _ in range(_TRIES):
            try:
                set_handler(_SIGINT, _ignore)
                handlers = tuple(map(getsignal, _OTHERS))
                if self._guards or handlers != self._own:
                    self._guard(handlers)
                return
            except BaseException:
                # Of a signal that came just now: it is too late, and has kept the rest from being done.
                continue

    def _guard(self, handlers):
        guards = {}
        for number, handler, own in zip(_OTHERS, handlers, self._own):
            if handler is own or not callable(handler):
                continue
            known = self._guards.get(number)
            if known is None or handler not in known:
                known = (handler, self._guarding(handler))
            set_handler(number, known[1])
            guards[number] = known
        self._guards = guards

    def _guarding(self, handler):
        raised = False

        def guard(signum, frame):
            nonlocal raised
            try:
                handler(signum, frame)
            except BaseException as error:
                if not raised:
                    raised = True
                    name = type(error).__name__
                    self._warn("a handler of signal %d raised when no request ran: %s: %s", signum, name, text_of(error))

        return guard

    @contextmanager
    def cancelling(self, cancel):
        """Meanwhile a SIGINT calls `cancel`. A second one finds user code that does not heed it, and raises."""

        def on_interrupt(signum, frame):
            set_handler(_SIGINT, default_int_handler)
            cancel()

        set_handler(_SIGINT, on_interrupt)
        try:
            yield
        finally:
            set_handler(_SIGINT, default_int_handler)

    def _on_terminate(self, signum, frame):
        self.ending = True
        if self._stop is not None:
            self._stop()
        if self.in_user_code or self._stop is None:
            raise SystemExit(0)


def _ignore(signum, frame):
    """A handler, and not SIG_IGN: the event loop wakes up, and children of user code do not inherit it."""


class _NoSignals:
    """For what is not user code, and beside it."""

    def enter_user_code(self):
        pass

    def leave_user_code(self):
        pass


NO_SIGNALS = _NoSignals()
