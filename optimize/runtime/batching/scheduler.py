"""Whose turn it is, and who can be answered in time: pure decisions, no thread and no I/O.

The most urgent request (see :mod:`optimize.runtime.batching.queue`) leads the next batch. Ageing keeps that order
from starving anyone: now and then a batch is led by the request that has waited longest.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, NamedTuple

from optimize.runtime.batching import batch_formation
from optimize.runtime.batching.latency_model import Forecast
from optimize.runtime.batching.queue import Line, W, Waiting

# A request that has waited this long may lead a batch before more urgent ones ...
DEFAULT_AGEING_S = 1.0
# ... but only one batch in so many is given away like that, so that a flood of old requests cannot hold up an urgent one.
AGED_EVERY = 8


class Taken(NamedTuple, Generic[W]):
    """The next execution (empty where nothing waits), and the requests dropped because their deadline cannot be kept."""

    batch: list[W]
    lost: list[W]


class Queue(Generic[W]):
    """The waiting requests of one model, for `slots` executions at a time, each of several requests if they are `joinable`."""

    def __init__(self, forecast: Forecast, *, joinable: bool, slots: int, ageing_s: float = DEFAULT_AGEING_S) -> None:
        self._forecast = forecast
        self._joinable = joinable
        self._slots = slots
        self._ageing_s = ageing_s
        self._since_aged = AGED_EVERY
        self._all: Line[W] = Line()
        self._groups: dict[Hashable, Line[W]] = {}
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
            line = self._groups[request.group] = Line()
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
        """Take out the next batch, and those whose deadline cannot be kept any more."""
        batch: list[W] = []
        lost: list[W] = []
        while self._arrivals and not batch:
            head = self._head(now)
            if head.lost(now):
                gone = [head]
                lost.append(head)
            elif self._joinable:
                packed, given_up = batch_formation.pack(
                    self._groups[head.group], head, now, self._forecast, self._slots
                )
                batch = packed.requests
                lost += given_up
                gone = [*batch, *given_up]
            else:
                gone = batch = [head]
            for request in gone:
                self.discard(request)
        return Taken(batch, lost)

    def answer_s(self, request: Waiting, remaining_s: Sequence[float]) -> float:
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
            full = forecast.full_rows(request.shape)
            filled = (rows + request.rows - 1) // full * full
            if rows > filled:
                riders = rows - filled
                ahead_s -= own_s * riders / rows
        wait_s = max(ahead_s, 0.0) * forecast.slowdown / self._slots
        return min(remaining_s) + wait_s + forecast.expected_s(riders + request.rows, request.shape)

    def drain_s(self, remaining_s: Sequence[float]) -> float:
        """Predicted seconds until all that runs and waits now is done."""
        return (sum(remaining_s) + self._all.work_s * self._forecast.slowdown) / self._slots

    @property
    def row_s(self) -> float:
        """Seconds that each row which waits takes of the slots together, as long as executions take what was promised."""
        return self._all.work_s / self._slots / self._all.rows if self._all.rows else 0.0

    def _head(self, now: float) -> W:
        urgent = self._all.requests[0]
        self._since_aged += 1
        oldest = next(iter(self._arrivals))
        if oldest is urgent or self._since_aged <= AGED_EVERY or now - oldest.arrived < self._ageing_s:
            return urgent
        self._since_aged = 0
        return oldest
