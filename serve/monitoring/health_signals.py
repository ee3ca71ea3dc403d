"""When a replica is sick, so that Ray Serve replaces it: pure decisions about the figures of its batchers.

Stuck     one execution takes 20 s longer than three times what its curve predicts. Always sick.
Slow      executions stay above three times the curve for 20 s. Sick, unless most replicas are slow: then the cause is the machine or
          the load, and new processes would be no faster. So the only replica of a service is never sick because it is slow.
Failing   five executions in a row have failed. Sick if a golden input fails as well; otherwise the requests are the cause.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.dispatcher import Execution

SLOW_RATIO = 3.0
SLOW_FOR_S = 20.0
FAILURES = 5


class HealthProblem(StrEnum):
    """What is wrong with a model's sessions."""

    STUCK = "an execution does not end"
    SLOW = "executions take over three times as long as measured"
    FAILING = "every execution fails, that of a golden input included"


@dataclass(frozen=True)
class HealthSignals:
    """The figures of a batcher at one moment; `executions` and `failures_in_a_row` count those that ended."""

    executions: int
    failures_in_a_row: int
    drift: float
    executing: tuple[Execution, ...]

    @classmethod
    def of(cls, batcher: Batcher) -> Self:
        """The figures of this moment."""
        counters = batcher.counters
        return cls(counters.executions, counters.failures_in_a_row, batcher.drift, tuple(batcher.executing()))

    @property
    def stuck(self) -> bool:
        """Whether an execution does not end; one whose time was never measured is not judged."""
        return any(
            predicted_s > 0 and elapsed_s > SLOW_RATIO * predicted_s + SLOW_FOR_S
            for elapsed_s, predicted_s in self.executing
        )

    @property
    def lagging(self) -> bool:
        """Whether an execution in progress has taken too long already."""
        return any(0 < SLOW_RATIO * predicted_s < elapsed_s for elapsed_s, predicted_s in self.executing)


class HealthHistory:
    """The signals of one batcher over time, observed every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._executions = 0
        self._slow_since: float | None = None
        self._slow_last = 0.0

    @property
    def slow(self) -> bool:
        """Whether its latest executions were slow."""
        return self._slow_since is not None

    def observe(self, signals: HealthSignals) -> HealthProblem | None:
        """The problem so far; SLOW and FAILING have to be confirmed, by other replicas and by a golden input."""
        lasting = self._slow_for(signals) >= SLOW_FOR_S
        if signals.stuck:
            return HealthProblem.STUCK
        if signals.failures_in_a_row >= FAILURES:
            return HealthProblem.FAILING
        return HealthProblem.SLOW if lasting else None

    def _slow_for(self, signals: HealthSignals) -> float:
        """Seconds for which all observed work has been slow; 0 if there was none since the last observation."""
        now = self._clock()
        worked = signals.executions != self._executions
        self._executions = signals.executions
        if signals.drift > SLOW_RATIO if worked else signals.lagging:
            # Two observations further apart than a whole slow period do not belong to the same period.
            if self._slow_since is None or now - self._slow_last > SLOW_FOR_S:
                self._slow_since = now
            self._slow_last = now
            return now - self._slow_since
        if worked:
            self._slow_since = None
        return 0.0


def most_are_slow(slow: Sequence[bool]) -> bool:
    """Whether most replicas are slow."""
    return 2 * sum(slow) > len(slow)
