"""Who shares the next execution: as many rows as its members' deadlines allow, but under pressure no small batch for one's sake.

A request at the edge of its deadline allows only a small batch, and a small batch wastes the time of all who wait. As long as they can
bear that, the most urgent request is served. When they cannot, its batch competes with the larger ones that could run instead. Without
this rule an overloaded server ends up with batches of two or three rows, each for the sake of the one request that is about to
expire, and answers a fraction of what it could.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Generic, NamedTuple

from optimize.runtime.batching.latency_model import Forecast
from optimize.runtime.batching.queue import Line, W

# To fill a batch of n rows, so many times n requests are looked at: who does not fit is passed over, within reason.
SCAN_FACTOR = 4
# A request is given up for a batch that answers so many times the rows a second, and for no less.
WORTH_GIVING_UP = 1.1


class Batch(NamedTuple, Generic[W]):
    """Requests to run together, the first of which leads, and the seconds that they are expected to take."""

    requests: list[W]
    rows: int
    expected_s: float


def pack(line: Line[W], head: W, now: float, forecast: Forecast, slots: int) -> tuple[Batch[W], list[W]]:
    """The next batch, and whom to give up for it: the more urgent to whom a better one leaves no time.

    `line` holds all who may share an execution with `head`, which is to lead; `slots` executions run at a time.
    """
    full = forecast.full_rows(head.shape)
    batch = _filled(head, islice(line.requests, SCAN_FACTOR * full), now, forecast)
    served = batch.rows >= min(full, line.rows) or line.requests[0] is not head
    if served or not _pressed(line, batch, forecast, now, slots):
        return batch, []
    better = _worthiest(line, batch, now, forecast)
    if better is batch:
        return batch, []
    end = now + better.expected_s / slots
    passed = islice(line.requests, line.place(better.requests[0].order))
    return better, [request for request in passed if request.lost(end)]


def _filled(head: W, company: Iterable[W], now: float, forecast: Forecast) -> Batch[W]:
    """The head with whoever of `company` fits: rows within bounds, and no member's deadline broken."""
    requests = [head]
    rows, shape, deadline = head.rows, head.shape, head.deadline
    full, expected_s = forecast.full_rows(shape), forecast.expected_s
    needed_s = expected_s(rows, shape)
    for request in company:
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


def _pressed(line: Line[W], batch: Batch[W], forecast: Forecast, now: float, slots: int) -> bool:
    """Whether an equal of the head would be late if `batch` ran first, even though all batches that follow are full."""
    head = batch.requests[0]
    full = forecast.full_rows(head.shape)
    full_s = forecast.expected_s(full, head.shape) / slots
    end = now + batch.expected_s / slots
    stride = max(1, full * len(line.requests) // line.rows)
    for request in islice(line.requests, len(batch.requests), None, stride):
        end += full_s
        if request.priority != head.priority:
            break
        if request.deadline < end:
            return True
    return False


def _worthiest(line: Line[W], batch: Batch[W], now: float, forecast: Forecast) -> Batch[W]:
    """`batch`, unless the deadlines behind its head allow one that answers notably more rows a second.

    Only requests of the head's own priority are passed over, and only for others of that priority.
    """
    head = batch.requests[0]
    full = forecast.full_rows(head.shape)
    best, wanted, rows = batch, WORTH_GIVING_UP, batch.rows
    while rows < full:
        rows = min(2 * rows, full)
        place = line.place((head.priority, now + forecast.expected_s(rows, head.shape), -1))
        if place == len(line.requests) or line.requests[place].priority != head.priority:
            break
        larger = _filled(line.requests[place], islice(line.requests, place, place + SCAN_FACTOR * full), now, forecast)
        gain = larger.rows * best.expected_s > wanted * best.rows * larger.expected_s
        if gain and larger.rows > batch.rows:
            best, wanted = larger, 1.0
    return best
