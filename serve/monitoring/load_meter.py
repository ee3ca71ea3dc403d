"""What a replica tells Ray Serve's autoscaler."""

import time
from collections.abc import Callable, Sequence

from serve.models.hosting import Hosted
from serve.monitoring.autoscaling import BUSY_SHARE, DRAIN_S


class LoadMeter:
    """What one replica reports: seconds until all that waits and runs is done, and the busy share since the last report.

    Models of a replica share its cores, so their seconds add up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked = clock()
        self._busy_s: dict[tuple[str, int], float] = {}

    def read(self, hosted: Sequence[Hosted]) -> dict[str, float]:
        """The report of this moment."""
        now = self._clock()
        elapsed_s, self._asked = now - self._asked, now
        before = self._busy_s
        self._busy_s = {(one.manifest.model, one.manifest.version): one.batcher.counters.busy_s for one in hosted}
        worked_s = sum(busy_s - before.get(key, 0.0) for key, busy_s in self._busy_s.items())
        workers = max((one.batcher.workers for one in hosted), default=1)
        return {
            DRAIN_S: sum(one.batcher.drain_s for one in hosted),
            BUSY_SHARE: worked_s / (elapsed_s * workers) if elapsed_s > 0 else 0.0,
        }
