"""The figures that a replica reports for `serve.monitoring.autoscaling`."""

import time
from collections.abc import Callable, Sequence

from serve.models.loading import LoadedVersion
from serve.monitoring.autoscaling import BUSY_SHARE, DRAIN_S


class AutoscalingStats:
    """Seconds until everything that waits or runs is done, and the busy share of the time since the last report.

    Models of a replica share its cores, so their seconds add up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_report = clock()
        self._busy_s: dict[tuple[str, int], float] = {}

    def report(self, versions: Sequence[LoadedVersion]) -> dict[str, float]:
        """The figures of this moment."""
        now = self._clock()
        elapsed_s, self._last_report = now - self._last_report, now
        before = self._busy_s
        self._busy_s = {(one.manifest.model, one.manifest.version): one.batcher.counters.busy_s for one in versions}
        worked_s = sum(busy_s - before.get(key, 0.0) for key, busy_s in self._busy_s.items())
        workers = max((one.batcher.workers for one in versions), default=1)
        return {
            DRAIN_S: sum(one.batcher.drain_s for one in versions),
            BUSY_SHARE: worked_s / (elapsed_s * workers) if elapsed_s > 0 else 0.0,
        }
