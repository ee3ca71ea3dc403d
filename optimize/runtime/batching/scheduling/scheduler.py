"""Which requests run next, and which can be answered in time: pure decisions, no thread and no I/O.

The most urgent request (see :mod:`optimize.runtime.batching.scheduling.queue`) leads the next batch. Ageing keeps that order
from starving anyone: now and then a batch is led by the request that has waited longest.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, NamedTuple

from optimize.runtime.batching.scheduling.batch_formation import form_batch
from optimize.runtime.batching.scheduling.latency_model import LatencyModel
from optimize.runtime.batching.scheduling.queue import QueuedRequest, R, RequestQueue

# A request that has waited this long may lead a batch before more urgent ones ...
DEFAULT_AGEING_S = 1.0
# ... but only one batch in so many is led like that, so that a flood of old requests cannot hold up an urgent one.
AGED_EVERY = 8


class Scheduled(NamedTuple, Generic[R]):
    """The next execution (empty where the queue is), and the requests dropped because their deadline cannot be met."""

    batch: list[R]
    dropped: list[R]


class Scheduler(Generic[R]):
    """The queued requests of one model with `workers` workers; an execution holds several requests if the model is `batchable`."""

    def __init__(
        self, latency_model: LatencyModel, *, batchable: bool, workers: int, ageing_s: float = DEFAULT_AGEING_S
    ) -> None:
        self._latency_model = latency_model
        self._batchable = batchable
        self._workers = workers
        self._ageing_s = ageing_s
        self._since_aged = AGED_EVERY
        self._queue: RequestQueue[R] = RequestQueue()
        self._groups: dict[Hashable, RequestQueue[R]] = {}
        self._arrivals: OrderedDict[R, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, request: R) -> bool:
        return request in self._arrivals

    def __iter__(self) -> Iterator[R]:
        return iter(self._queue.requests)

    @property
    def rows(self) -> int:
        """Rows in the queue."""
        return self._queue.rows

    def add(self, request: R) -> None:
        """Queue a request."""
        self._queue.add(request)
        self._arrivals[request] = None
        group = self._groups.get(request.group)
        if group is None:
            group = self._groups[request.group] = RequestQueue()
        group.add(request)

    def discard(self, request: R) -> bool:
        """Take a request out, if it is still queued; whether it was."""
        if request not in self._arrivals:
            return False
        del self._arrivals[request]
        self._queue.discard(request)
        group = self._groups[request.group]
        group.discard(request)
        if not group.requests:
            del self._groups[request.group]
        return True

    def next_batch(self, now: float) -> Scheduled[R]:
        """Take out the next batch, and the requests whose deadline cannot be met any more."""
        batch: list[R] = []
        dropped: list[R] = []
        while self._arrivals and not batch:
            head = self._head(now)
            if head.is_too_late(now):
                gone = [head]
                dropped.append(head)
            elif self._batchable:
                formed, given_up = form_batch(self._groups[head.group], head, now, self._latency_model, self._workers)
                batch = formed.requests
                dropped += given_up
                gone = [*batch, *given_up]
            else:
                gone = batch = [head]
            for request in gone:
                self.discard(request)
        return Scheduled(batch, dropped)

    def answer_s(self, request: QueuedRequest, remaining_s: Sequence[float]) -> float:
        """Predicted seconds until `request` would be answered, given how long each worker is still busy.

        The work ahead of it is spread over all workers. Of its own group, the full batches ahead of it run first, and it shares an
        execution with the rest of those rows.
        """
        latency_model = self._latency_model
        ahead_s = self._queue.ahead(request.order)[1]
        group = self._groups.get(request.group)
        shared_rows = 0
        if self._batchable and group is not None:
            rows, own_s = group.ahead(request.order)
            full = latency_model.full_rows(request.shape)
            in_full_batches = (rows + request.rows - 1) // full * full
            if rows > in_full_batches:
                shared_rows = rows - in_full_batches
                ahead_s -= own_s * shared_rows / rows
        wait_s = max(ahead_s, 0.0) * latency_model.slowdown / self._workers
        return min(remaining_s) + wait_s + latency_model.expected_s(shared_rows + request.rows, request.shape)

    def drain_s(self, remaining_s: Sequence[float]) -> float:
        """Predicted seconds until everything that is running or queued is done."""
        return (sum(remaining_s) + self._queue.work_s * self._latency_model.slowdown) / self._workers

    @property
    def row_s(self) -> float:
        """Seconds that all workers together take for one queued row, if executions take what was promised."""
        return self._queue.work_s / self._workers / self._queue.rows if self._queue.rows else 0.0

    def _head(self, now: float) -> R:
        urgent = self._queue.requests[0]
        self._since_aged += 1
        oldest = next(iter(self._arrivals))
        if oldest is urgent or self._since_aged <= AGED_EVERY or now - oldest.arrived < self._ageing_s:
            return urgent
        self._since_aged = 0
        return oldest
