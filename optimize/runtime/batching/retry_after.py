"""When those who find a queue full are to come again: one after the other, as they can be answered, and not all at once."""


class Appointments:
    """Each follows the one before by the time that its request takes.

    None is later than `spread_s` after the queue is drained: from there on they begin again, since some never come, and those who
    come too soon get another.
    """

    def __init__(self, spread_s: float) -> None:
        self._spread_s = spread_s
        self._next = 0.0

    def after_s(self, now: float, drained_s: float, takes_s: float) -> float:
        """Seconds from `now` to the next one, for a request that takes `takes_s`, where the queue is drained in `drained_s`."""
        drained = now + drained_s
        due = max(self._next, drained)
        if due > drained + self._spread_s:
            due = drained
        self._next = due + takes_s
        return due - now
