"""Ctrl-C and SIGTERM as a wish that is heeded where it is safe.

An exception that is raised wherever a signal happens to land can be swallowed inside Ray, or crash it.
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
    """Notes a signal for :meth:`heed`; a second one, from a user who insists, interrupts at once until :meth:`ignore`."""

    def __init__(self) -> None:
        self._asked = False
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
        """Take the signals, also from who took them meanwhile."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def heed(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self._asked:
            raise KeyboardInterrupt

    def wait(self) -> None:
        """Return once a signal came."""
        while not self._asked:
            time.sleep(_POLL_S)

    def ignore(self) -> None:
        """Let nothing interrupt what clears up."""
        self._ignored = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._asked and not self._ignored:
            raise KeyboardInterrupt
        if not self._asked:
            # Past Python's buffers, which the signal may have found half-way through a write.
            os.write(_STDERR, b"stopping; once more to stop at once\n")
        self._asked = True
