"""Which requests share the next execution: as many rows as their deadlines allow, but under pressure no small batch for one request.

A request at the edge of its deadline allows only a small batch, and a small batch wastes the time of all others in the queue. As
long as they can bear that, the most urgent request is served. When they cannot, its batch competes with the larger ones that could
run instead. Without this rule an overloaded server ends up with batches of two or three rows, each for the sake of the one request
that is about to expire, and answers a fraction of what it could.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Generic, NamedTuple

from optimize.runtime.batching.scheduling.latency_model import LatencyModel
from optimize.runtime.batching.scheduling.queue import R, RequestQueue

# To fill a batch of n rows, so many times n requests are looked at; those that do not fit are passed over.
SCAN_FACTOR = 4
# A request is given up only for a batch that answers at least so many times the rows per second.
WORTH_GIVING_UP = 1.1


class Batch(NamedTuple, Generic[R]):
    """Requests to run together, the first of which leads, and the seconds that they are expected to take."""

    requests: list[R]
    rows: int
    expected_s: float


def form_batch(
    queue: RequestQueue[R], head: R, now: float, latency_model: LatencyModel, workers: int
) -> tuple[Batch[R], list[R]]:
    """The next batch, and the more urgent requests that a better one leaves no time for, which are given up.

    `queue` holds all requests that may share an execution with `head`, which is to lead; `workers` executions run at a time.
    """
    full = latency_model.full_rows(head.shape)
    batch = _filled(head, islice(queue.requests, SCAN_FACTOR * full), now, latency_model)
    large_enough = batch.rows >= min(full, queue.rows) or queue.requests[0] is not head
    if large_enough or not _delays_others(queue, batch, latency_model, now, workers):
        return batch, []
    better = _most_productive(queue, batch, now, latency_model)
    if better is batch:
        return batch, []
    end = now + better.expected_s / workers
    passed = islice(queue.requests, queue.position(better.requests[0].order))
    return better, [request for request in passed if request.is_too_late(end)]


def _filled(head: R, others: Iterable[R], now: float, latency_model: LatencyModel) -> Batch[R]:
    """The head with those of `others` that fit: rows within limits, and every deadline met."""
    requests = [head]
    rows, shape, deadline = head.rows, head.shape, head.deadline
    full, expected_s = latency_model.full_rows(shape), latency_model.expected_s
    needed_s = expected_s(rows, shape)
    for request in others:
        if rows >= full:
            break
        if request is head or rows + request.rows > full:
            continue
        widest = shape if request.shape == shape else tuple(map(max, shape, request.shape))
        together_s = expected_s(rows + request.rows, widest)
        earliest = min(deadline, request.deadline)
        if now + together_s > earliest:
            continue
        if request.shape != shape and together_s > needed_s + expected_s(request.rows, request.shape):
            continue  # the padding would cost more than a second execution
        requests.append(request)
        rows, shape, deadline, needed_s = rows + request.rows, widest, earliest, together_s
    return Batch(requests, rows, needed_s)


def _delays_others(
    queue: RequestQueue[R], batch: Batch[R], latency_model: LatencyModel, now: float, workers: int
) -> bool:
    """Whether a request of the head's priority would be late if `batch` ran first, even though all later batches are full."""
    head = batch.requests[0]
    full = latency_model.full_rows(head.shape)
    full_s = latency_model.expected_s(full, head.shape) / workers
    end = now + batch.expected_s / workers
    stride = max(1, full * len(queue.requests) // queue.rows)
    for request in islice(queue.requests, len(batch.requests), None, stride):
        end += full_s
        if request.priority != head.priority:
            break
        if request.deadline < end:
            return True
    return False


def _most_productive(queue: RequestQueue[R], batch: Batch[R], now: float, latency_model: LatencyModel) -> Batch[R]:
    """`batch`, unless the deadlines behind its head allow one that answers notably more rows per second.

    Only requests of the head's own priority are passed over, and only for others of that priority.
    """
    head = batch.requests[0]
    full = latency_model.full_rows(head.shape)
    best, wanted, rows = batch, WORTH_GIVING_UP, batch.rows
    while rows < full:
        rows = min(2 * rows, full)
        position = queue.position((head.priority, now + latency_model.expected_s(rows, head.shape), -1))
        if position == len(queue.requests) or queue.requests[position].priority != head.priority:
            break
        others = islice(queue.requests, position, position + SCAN_FACTOR * full)
        larger = _filled(queue.requests[position], others, now, latency_model)
        gain = larger.rows * best.expected_s > wanted * best.rows * larger.expected_s
        if gain and larger.rows > batch.rows:
            best, wanted = larger, 1.0
    return best
