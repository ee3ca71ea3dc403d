"""When a call may be made again: where nothing was promised to anybody, and a server can be expected to do better soon.

Predictions change nothing, so one may be asked for twice. UNAVAILABLE says that nobody took the call, or that its server is gone;
RESOURCE_EXHAUSTED says to come again only where it says when. All else would end the same way.
"""

import math
import random
import time
from collections.abc import Callable, Iterable

import grpc

from serve.metadata_keys import PUSHBACK_KEY

MAX_ATTEMPTS = 5
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0
_SPREAD = 0.2
"""Share by which callers that were sent away together are told apart."""

Metadata = Iterable[tuple[str, str | bytes]]


class Attempts:
    """The attempts at one call, all within its one deadline."""

    def __init__(
        self,
        timeout_s: float,
        max_attempts: int = MAX_ATTEMPTS,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._draw = draw
        self._deadline_s = clock() + timeout_s
        self._left = max_attempts
        self._ceiling_s = FIRST_PAUSE_S

    @property
    def remaining_s(self) -> float:
        """What is left until the deadline."""
        return self._deadline_s - self._clock()

    def pause_s(self, code: grpc.StatusCode, trailing: Metadata | None) -> float | None:
        """How long to wait before the next attempt, after one that ended so; None where there is to be none."""
        self._left -= 1
        pushback_ms = _pushback_ms(trailing or ())
        if self._left < 1 or not _again(code, pushback_ms):
            return None
        pause_s = self._backoff_s() if pushback_ms is None else pushback_ms / 1e3 * (1 + _SPREAD * self._draw())
        # An attempt that could only start after the deadline would hide why this one failed.
        return pause_s if pause_s < self.remaining_s else None

    def _backoff_s(self) -> float:
        """Anything up to a ceiling that doubles: callers that failed together do not come again together."""
        ceiling_s, self._ceiling_s = self._ceiling_s, min(2 * self._ceiling_s, MAX_PAUSE_S)
        return ceiling_s * self._draw()


def _again(code: grpc.StatusCode, pushback_ms: float | None) -> bool:
    if pushback_ms is not None and pushback_ms < 0:
        return False
    return code is grpc.StatusCode.UNAVAILABLE or (
        code is grpc.StatusCode.RESOURCE_EXHAUSTED and pushback_ms is not None
    )


def _pushback_ms(trailing: Metadata) -> float | None:
    said = next((value for key, value in trailing if key == PUSHBACK_KEY), None)
    if said is None:
        return None
    try:
        return int(said)
    except ValueError:
        return -math.inf
