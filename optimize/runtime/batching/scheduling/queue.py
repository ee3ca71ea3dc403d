"""Queued requests in order of urgency, and the rows and the seconds of work that they add up to.

Urgency is priority first (lower is more urgent), then deadline (earliest first), then arrival.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable
from itertools import islice
from operator import attrgetter
from typing import Generic, TypeVar

from optimize.runtime.batching.collate import Shape
from optimize.runtime.batching.scheduling.latency_model import LatencyModel

Order = tuple[int, float, int]
"""Priority, deadline and number of arrival."""


class QueuedRequest:
    """What the scheduler knows of one request; requests of the same `group` may share an execution."""

    __slots__ = ("alone_s", "arrived", "deadline", "group", "order", "priority", "rows", "shape", "share_s")

    def __init__(
        self, order: Order, arrived: float, rows: int, group: Hashable, shape: Shape, latency_model: LatencyModel
    ) -> None:
        self.order = order
        self.priority, self.deadline, _ = order
        self.arrived = arrived
        self.rows = rows
        self.group = group
        self.shape = shape
        self.alone_s = latency_model.promised_s(rows, shape)
        full = latency_model.full_rows(shape)
        # Its share of a full batch, since a backlog is worked off in full batches.
        self.share_s = latency_model.promised_s(full, shape) * rows / full if rows < full else self.alone_s

    def is_too_late(self, now: float) -> bool:
        """Whether its deadline has passed, or will even if it runs at once and alone."""
        return self.deadline <= now or now + self.alone_s > self.deadline


R = TypeVar("R", bound=QueuedRequest)
_ORDER = attrgetter("order")


class RequestQueue(Generic[R]):
    """Requests by urgency."""

    __slots__ = ("requests", "rows", "work_s")

    def __init__(self) -> None:
        self.requests: list[R] = []
        self.rows = 0
        self.work_s = 0.0

    def add(self, request: R) -> None:
        """Put a request in its place."""
        if not self.requests or self.requests[-1].order < request.order:
            self.requests.append(request)
        else:
            insort(self.requests, request, key=_ORDER)
        self.rows += request.rows
        self.work_s += request.share_s

    def discard(self, request: R) -> None:
        """Take out a request that is in the queue."""
        del self.requests[self.position(request.order)]
        self.rows -= request.rows
        self.work_s = self.work_s - request.share_s if self.requests else 0.0

    def position(self, order: Order) -> int:
        """How many requests are more urgent than `order`."""
        return bisect_left(self.requests, order, key=_ORDER)

    def ahead(self, order: Order) -> tuple[int, float]:
        """Rows and seconds of work that are more urgent than `order`."""
        if not self.requests or self.requests[-1].order < order:
            return self.rows, self.work_s
        rows, work_s = 0, 0.0
        for request in islice(self.requests, self.position(order)):
            rows += request.rows
            work_s += request.share_s
        return rows, work_s
