"""Which waiting requests share the next execution, and which can be answered in time: pure decisions, no thread and no I/O.

    Waiting    what the policy knows of one request
    Queue      the waiting requests by urgency; takes the next batch, and predicts when one more would be answered

Urgency is priority first (lower is more urgent), then deadline (earliest first), then arrival. Ageing keeps that order from starving
anyone: now and then an execution is headed by whoever has waited longest, instead of the most urgent.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from optimize.runtime.forecast import Forecast
from optimize.runtime.joining import Shape

# A request that has waited this long may head an execution before more urgent ones ...
DEFAULT_AGEING_S = 1.0
# ... but only one execution in so many is given away like that, so that a flood of old requests cannot hold up an urgent one.
AGED_EVERY = 8
# To fill a batch of n rows, so many times n requests are looked at: what does not fit is passed over, within reason.
SCAN_FACTOR = 4


class Waiting:
    """One request: its size, its urgency, and the seconds it takes alone and as its share of a full batch."""

    __slots__ = ("alone_s", "arrived", "deadline", "group", "order", "rows", "shape", "share_s")

    def __init__(
        self,
        order: tuple[int, float, int],
        arrived: float,
        rows: int,
        group: Hashable,
        shape: Shape,
        forecast: Forecast,
    ) -> None:
        self.order = order
        self.deadline = order[1]
        self.arrived = arrived
        self.rows = rows
        self.group = group
        self.shape = shape
        self.alone_s = forecast.promised_s(rows, shape)
        full = forecast.max_rows
        self.share_s = forecast.promised_s(full, shape) * rows / full if rows < full else self.alone_s

    def lost(self, now: float) -> bool:
        """Whether the deadline has passed or will, even if the request runs at once and alone."""
        return self.deadline <= now or now + self.alone_s > self.deadline


W = TypeVar("W", bound=Waiting)
_ORDER = attrgetter("order")


class _Line(Generic[W]):
    """Requests by urgency, with their rows and their work in seconds."""

    __slots__ = ("requests", "rows", "work_s")

    def __init__(self) -> None:
        self.requests: list[W] = []
        self.rows = 0
        self.work_s = 0.0

    def add(self, request: W) -> None:
        if not self.requests or self.requests[-1].order < request.order:
            self.requests.append(request)
        else:
            insort(self.requests, request, key=_ORDER)
        self.rows += request.rows
        self.work_s += request.share_s

    def discard(self, request: W) -> None:
        del self.requests[bisect_left(self.requests, request.order, key=_ORDER)]
        self.rows -= request.rows
        self.work_s = self.work_s - request.share_s if self.requests else 0.0

    def ahead(self, order: tuple[int, float, int]) -> tuple[int, float]:
        """Rows and seconds of work that are more urgent than `order`."""
        if not self.requests or self.requests[-1].order < order:
            return self.rows, self.work_s
        place = bisect_left(self.requests, order, key=_ORDER)
        rows, work_s = 0, 0.0
        for request in islice(self.requests, place):
            rows += request.rows
            work_s += request.share_s
        return rows, work_s


class Taken(NamedTuple, Generic[W]):
    """The next execution (empty where nothing waits), and the requests dropped because their deadline cannot be kept."""

    batch: list[W]
    lost: list[W]


class Queue(Generic[W]):
    """The waiting requests of one model."""

    def __init__(self, forecast: Forecast, *, joinable: bool, ageing_s: float = DEFAULT_AGEING_S) -> None:
        self._forecast = forecast
        self._joinable = joinable
        self._ageing_s = ageing_s
        self._since_aged = AGED_EVERY
        self._all: _Line[W] = _Line()
        self._groups: dict[Hashable, _Line[W]] = {}
        self._arrivals: OrderedDict[W, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, request: W) -> bool:
        return request in self._arrivals

    def __iter__(self) -> Iterator[W]:
        return iter(self._all.requests)

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._all.rows

    def add(self, request: W) -> None:
        """Let a request wait for its turn."""
        self._all.add(request)
        self._arrivals[request] = None
        line = self._groups.get(request.group)
        if line is None:
            line = self._groups[request.group] = _Line()
        line.add(request)

    def discard(self, request: W) -> bool:
        """Take a request out, if it still waits; whether it did."""
        if request not in self._arrivals:
            return False
        del self._arrivals[request]
        self._all.discard(request)
        line = self._groups[request.group]
        line.discard(request)
        if not line.requests:
            del self._groups[request.group]
        return True

    def take(self, now: float) -> Taken[W]:
        """Take out the next execution: the most urgent request that can be kept, and the company that it can bear."""
        taken: Taken[W] = Taken([], [])
        while self._arrivals and not taken.batch:
            head = self._head(now)
            if head.lost(now):
                self.discard(head)
                taken.lost.append(head)
                continue
            taken.batch.append(head)
            if self._joinable and head.rows < self._forecast.max_rows:
                self._fill(taken.batch, now)
            for request in taken.batch:
                self.discard(request)
        return taken

    def answer_s(self, request: W, remaining_s: Sequence[float]) -> float:
        """Predicted seconds until `request` would be answered, given when each slot becomes free.

        The work ahead of it is spread over all slots. Of its own group, the batches that fill up before it come first, and it rides
        with the rest of those rows.
        """
        forecast = self._forecast
        ahead_s = self._all.ahead(request.order)[1]
        line = self._groups.get(request.group)
        riders = 0
        if self._joinable and line is not None:
            rows, own_s = line.ahead(request.order)
            filled = (rows + request.rows - 1) // forecast.max_rows * forecast.max_rows
            if rows > filled:
                riders = rows - filled
                ahead_s -= own_s * riders / rows
        wait_s = max(ahead_s, 0.0) * forecast.slowdown / len(remaining_s)
        return min(remaining_s) + wait_s + forecast.expected_s(riders + request.rows, request.shape)

    def drain_s(self, remaining_s: Sequence[float]) -> float:
        """Predicted seconds until all that runs and waits now is done."""
        return (sum(remaining_s) + self._all.work_s * self._forecast.slowdown) / len(remaining_s)

    def _head(self, now: float) -> W:
        urgent = self._all.requests[0]
        self._since_aged += 1
        oldest = next(iter(self._arrivals))
        if oldest is urgent or self._since_aged <= AGED_EVERY or now - oldest.arrived < self._ageing_s:
            return urgent
        self._since_aged = 0
        return oldest

    def _fill(self, batch: list[W], now: float) -> None:
        """Add to the head, in order of urgency, whoever fits: rows within bounds, and no member's deadline broken."""
        head = batch[0]
        rows, shape, deadline = head.rows, head.shape, head.deadline
        full = self._forecast.max_rows
        expected_s = self._forecast.expected_s
        for request in islice(self._groups[head.group].requests, SCAN_FACTOR * full):
            if request is head or rows + request.rows > full:
                continue
            widest = shape if request.shape == shape else tuple(map(max, shape, request.shape))
            together_s = expected_s(rows + request.rows, widest)
            earliest = min(deadline, request.deadline)
            if now + together_s > earliest:
                continue
            if request.shape != shape:
                apart_s = expected_s(rows, shape) + expected_s(request.rows, request.shape)
                if together_s > apart_s:
                    continue  # the padding would cost more than a second execution
            batch.append(request)
            rows, shape, deadline = rows + request.rows, widest, earliest
            if rows == full:
                break
