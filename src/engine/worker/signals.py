"""When SIGINT becomes KeyboardInterrupt, and how SIGTERM ends a kernel."""

import signal
from _signal import getsignal  # The one of `signal` makes an enum of its answer: 5 us per request.

_SIGINT = int(signal.SIGINT)


class Signals:
    """SIGINT raises only in user code; SIGTERM ends the kernel in order, out of user code if need be."""

    def __init__(self, stop=None):
        self.in_user_code = False
        self.ending = False
        self._stop = stop
        """Wakes the event loop for its end; None where there is none."""
        self.cancel = None
        """Cancels the cell that is awaiting something, from within the signal handler."""

    def install(self):
        self._handler = self._on_interrupt
        signal.signal(signal.SIGINT, self._handler)
        signal.signal(signal.SIGTERM, self._on_terminate)

    def enter_user_code(self):
        """From here on a SIGINT raises. Takes SIGINT back if the last request left a handler of its own."""
        if getsignal(_SIGINT) is not self._handler:
            signal.signal(signal.SIGINT, self._handler)
        self.in_user_code = True

    def leave_user_code(self):
        self.in_user_code = False

    def _on_interrupt(self, signum, frame):
        if not self.in_user_code:
            return
        if self.cancel is None:
            raise KeyboardInterrupt
        # A second interrupt finds user code that does not await, or will not be cancelled.
        cancel, self.cancel = self.cancel, None
        cancel()

    def _on_terminate(self, signum, frame):
        self.ending = True
        if self._stop is not None:
            self._stop()
        if self.in_user_code or self._stop is None:
            raise SystemExit(0)
