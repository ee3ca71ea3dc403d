"""When a replica is sick, so that Ray Serve replaces it: pure decisions on what its batchers show.

Stuck     one execution runs on, long past three times what the curve promises. Always sick.
Slow      executions stay above three times the curve for 20 s. Sick, unless most replicas are slow together: then the machine or
          the load is to blame, and new processes would be no faster. So a replica that is the only one is never sick of this.
Failing   five executions running have failed. Sick, if a golden input fails, too: else the requests are to blame, not the session.
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


class Ailment(StrEnum):
    """What is wrong with a model's sessions."""

    STUCK = "an execution does not end"
    SLOW = "executions take over three times as long as measured"
    FAILING = "every execution fails, that of a golden input included"


@dataclass(frozen=True)
class Signs:
    """What a batcher shows at one moment; `executions` and `failures_in_a_row` are of those that ended."""

    executions: int
    failures_in_a_row: int
    drift: float
    executing: tuple[Execution, ...]

    @classmethod
    def of(cls, batcher: Batcher) -> Self:
        """Those of this moment."""
        counters = batcher.counters
        return cls(counters.executions, counters.failures_in_a_row, batcher.drift, tuple(batcher.executing()))

    @property
    def stuck(self) -> bool:
        """Whether an execution runs on; one whose time was never measured is not judged."""
        return any(
            promised_s > 0 and elapsed_s > SLOW_RATIO * promised_s + SLOW_FOR_S
            for elapsed_s, promised_s in self.executing
        )

    @property
    def lagging(self) -> bool:
        """Whether an execution under way has taken too long already."""
        return any(0 < SLOW_RATIO * promised_s < elapsed_s for elapsed_s, promised_s in self.executing)


class Course:
    """One batcher's signs over time, looked at every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._executions = 0
        self._slow_since: float | None = None
        self._slow_last = 0.0

    @property
    def slow(self) -> bool:
        """Whether it was slow when it was last seen at work."""
        return self._slow_since is not None

    def observe(self, signs: Signs) -> Ailment | None:
        """What is wrong by now: SLOW and FAILING are still to be confirmed, by other replicas and by a golden input."""
        lasting = self._slow_for(signs) >= SLOW_FOR_S
        if signs.stuck:
            return Ailment.STUCK
        if signs.failures_in_a_row >= FAILURES:
            return Ailment.FAILING
        return Ailment.SLOW if lasting else None

    def _slow_for(self, signs: Signs) -> float:
        """Seconds for which all work that was seen has been slow; 0 where there was none since the last look."""
        now = self._clock()
        worked = signs.executions != self._executions
        self._executions = signs.executions
        if signs.drift > SLOW_RATIO if worked else signs.lagging:
            # What lies further apart than the whole spell may last is two spells.
            if self._slow_since is None or now - self._slow_last > SLOW_FOR_S:
                self._slow_since = now
            self._slow_last = now
            return now - self._slow_since
        if worked:
            self._slow_since = None
        return 0.0


def together(slow: Sequence[bool]) -> bool:
    """Whether most replicas are slow."""
    return 2 * sum(slow) > len(slow)
