"""When SIGINT becomes KeyboardInterrupt, and how SIGTERM ends a kernel."""

import os
import signal
from contextlib import contextmanager
from _signal import default_int_handler, signal as set_handler  # The one of `signal` makes enums: 5 us per request.

_SIGINT = int(signal.SIGINT)
_TERMINATE = {signal.SIGTERM}


class Signals:
    """SIGINT raises only in user code; SIGTERM ends the kernel in order, out of user code if need be.

    While user code runs, SIGINT has Python's own handler, as in ipykernel: a traceback ends at the user's line, and
    libraries that look at the handler find what they know.
    """

    def __init__(self, stop=None):
        self.in_user_code = False
        self.ending = False
        self._stop = stop
        """Wakes the event loop for its end; None where there is none."""

    def install(self):
        set_handler(_SIGINT, _ignore)
        signal.signal(signal.SIGTERM, self._on_terminate)
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
        """From here on a SIGINT raises."""
        self.in_user_code = True
        set_handler(_SIGINT, default_int_handler)

    def leave_user_code(self):
        """From here on a SIGINT does nothing, whatever handler the user's code has left."""
        self.in_user_code = False
        try:
            set_handler(_SIGINT, _ignore)
        except KeyboardInterrupt:
            # One that came just now is too late, and has kept the handler from being set.
            set_handler(_SIGINT, _ignore)

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
