"""When to retry a call.

Predictions change nothing, so they can be repeated. UNAVAILABLE means that no server took the call, or that its server is gone;
RESOURCE_EXHAUSTED is worth a retry only if it says when. Everything else would fail in the same way.
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
"""Callers that were refused at the same moment retry at times that differ by up to this share."""

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
        """The time until the deadline."""
        return self._deadline_s - self._clock()

    def pause_s(self, code: grpc.StatusCode, trailing: Metadata | None) -> float | None:
        """The pause before the next attempt, after one that ended with `code`; None if there should be no other attempt."""
        self._left -= 1
        pushback_ms = _pushback_ms(trailing or ())
        if self._left < 1 or not _retryable(code, pushback_ms):
            return None
        pause_s = self._backoff_s() if pushback_ms is None else pushback_ms / 1e3 * (1 + _SPREAD * self._draw())
        # An attempt after the deadline would hide why this one failed.
        return pause_s if pause_s < self.remaining_s else None

    def _backoff_s(self) -> float:
        """A random pause up to a ceiling that doubles, so that callers that failed at the same moment do not retry together."""
        ceiling_s, self._ceiling_s = self._ceiling_s, min(2 * self._ceiling_s, MAX_PAUSE_S)
        return ceiling_s * self._draw()


def _retryable(code: grpc.StatusCode, pushback_ms: float | None) -> bool:
    if pushback_ms is not None and pushback_ms < 0:
        return False
    return code is grpc.StatusCode.UNAVAILABLE or (
        code is grpc.StatusCode.RESOURCE_EXHAUSTED and pushback_ms is not None
    )


def _pushback_ms(trailing: Metadata) -> float | None:
    sent = next((value for key, value in trailing if key == PUSHBACK_KEY), None)
    if sent is None:
        return None
    try:
        return int(sent)
    except ValueError:
        return -math.inf
