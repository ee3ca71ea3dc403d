"""Waiting requests in order of urgency, with the rows and the seconds of work that they stand for.

Urgency is priority first (lower is more urgent), then deadline (earliest first), then arrival.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable
from itertools import islice
from operator import attrgetter
from typing import Generic, TypeVar

from optimize.runtime.batching.collate import Shape
from optimize.runtime.batching.latency_model import Forecast

Order = tuple[int, float, int]
"""Priority, deadline and number of arrival."""


class Waiting:
    """What the policy knows of one request; `group` tells whom it may share an execution with."""

    __slots__ = ("alone_s", "arrived", "deadline", "group", "order", "priority", "rows", "shape", "share_s")

    def __init__(
        self, order: Order, arrived: float, rows: int, group: Hashable, shape: Shape, forecast: Forecast
    ) -> None:
        self.order = order
        self.priority, self.deadline, _ = order
        self.arrived = arrived
        self.rows = rows
        self.group = group
        self.shape = shape
        self.alone_s = forecast.promised_s(rows, shape)
        full = forecast.full_rows(shape)
        # What it costs of the time of a full batch, which is what a backlog is worked off in.
        self.share_s = forecast.promised_s(full, shape) * rows / full if rows < full else self.alone_s

    def lost(self, now: float) -> bool:
        """Whether its deadline has passed, or will even if it runs at once and alone."""
        return self.deadline <= now or now + self.alone_s > self.deadline


W = TypeVar("W", bound=Waiting)
_ORDER = attrgetter("order")


class Line(Generic[W]):
    """Requests by urgency."""

    __slots__ = ("requests", "rows", "work_s")

    def __init__(self) -> None:
        self.requests: list[W] = []
        self.rows = 0
        self.work_s = 0.0

    def add(self, request: W) -> None:
        """Put a request in its place."""
        if not self.requests or self.requests[-1].order < request.order:
            self.requests.append(request)
        else:
            insort(self.requests, request, key=_ORDER)
        self.rows += request.rows
        self.work_s += request.share_s

    def discard(self, request: W) -> None:
        """Take out a request that is in it."""
        del self.requests[self.place(request.order)]
        self.rows -= request.rows
        self.work_s = self.work_s - request.share_s if self.requests else 0.0

    def place(self, order: Order) -> int:
        """How many requests are more urgent than `order`."""
        return bisect_left(self.requests, order, key=_ORDER)

    def ahead(self, order: Order) -> tuple[int, float]:
        """Rows and seconds of work that are more urgent than `order`."""
        if not self.requests or self.requests[-1].order < order:
            return self.rows, self.work_s
        rows, work_s = 0, 0.0
        for request in islice(self.requests, self.place(order)):
            rows += request.rows
            work_s += request.share_s
        return rows, work_s
