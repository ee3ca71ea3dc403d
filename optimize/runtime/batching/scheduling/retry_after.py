"""When callers that found the queue full should retry: one after the other, as they can be answered, and not all at once."""


class RetryAfter:
    """Spaces retries by the time that each request takes.

    None is later than `spread_s` after the queue is drained: from there on the times start over, since some callers never retry, and
    those that retry too soon get another time.
    """

    def __init__(self, spread_s: float) -> None:
        self._spread_s = spread_s
        self._next = 0.0

    def next_s(self, now: float, drained_s: float, request_s: float) -> float:
        """Seconds from `now` to the next retry, of a request that takes `request_s`, where the queue is drained in `drained_s`."""
        drained = now + drained_s
        due = max(self._next, drained)
        if due > drained + self._spread_s:
            due = drained
        self._next = due + request_s
        return due - now
