"""How many replicas a deployed service wants: a policy for Ray Serve's controller.

Serve's own policy counts the calls that pass through Serve, and so misses those that a replica takes directly. Here replicas report
how long their queues will take, as the batchers predict, and how busy they are (`serve.monitoring.autoscaling_stats`).
"""

from collections.abc import Mapping
from typing import Any, Protocol

POLICY = "serve.monitoring.autoscaling:Backlog"
"""Import path of the policy, for Serve's `autoscaling_config`."""

DRAIN_S = "drain_s"
BUSY_SHARE = "busy_share"


class Context(Protocol):
    """What Ray Serve passes to a policy, as far as it is needed here."""

    target_num_replicas: int
    aggregated_metrics: Mapping[str, Mapping[Any, float]] | None


class Backlog:
    """As many replicas as finish the queues within `target_drain_s`, and are busy for at most `max_load` of the time."""

    def __init__(self, target_drain_s: float, max_load: float) -> None:
        self._target_drain_s = target_drain_s
        self._max_load = max_load

    def __call__(self, context: Context) -> tuple[float, dict[str, Any]]:
        """The wanted number, which Serve rounds up, delays and bounds; the current one until a replica has reported."""
        reported = context.aggregated_metrics or {}
        drains_s, shares = reported.get(DRAIN_S, {}).values(), reported.get(BUSY_SHARE, {}).values()
        if not drains_s or not shares:
            return context.target_num_replicas, {}
        # A replica that has just started has not reported yet, and has nothing to do.
        return max(sum(drains_s) / self._target_drain_s, sum(shares) / self._max_load, 1.0), {}
