"""Ctrl-C and SIGTERM as a request that is checked where it is safe to stop.

An exception that is raised wherever a signal happens to arrive can get lost inside Ray, or crash it.
"""

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self

_STDERR = 2
_POLL_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Remembers a signal for :meth:`check`; a second signal interrupts at once, until :meth:`ignore`."""

    def __init__(self) -> None:
        self._requested = False
        self._ignored = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Handle the signals, even if another handler was set meanwhile."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self._requested:
            raise KeyboardInterrupt

    def wait(self) -> None:
        """Return when a signal comes."""
        while not self._requested:
            time.sleep(_POLL_S)

    def ignore(self) -> None:
        """Let no further signal interrupt, while things are cleaned up."""
        self._ignored = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._requested and not self._ignored:
            raise KeyboardInterrupt
        if not self._requested:
            # Not through Python's buffers, since the signal may have interrupted a write to them.
            os.write(_STDERR, b"stopping; once more to stop at once\n")
        self._requested = True
