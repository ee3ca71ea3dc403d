"""How long an execution takes: what the curve promised (p95), and what to expect on this machine today."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from optimize.runtime.batching.collate import Shape
from optimize.runtime.batching.scheduling.curve import Curve

# One execution moves the estimate of reality over promise by this share, and counts at most as this many times its promise.
DRIFT_WEIGHT = 0.1
MAX_DRIFT = 10.0
# Predictions forget slow executions ten times as slowly as they learn of them: on a crowded machine, they recur.
RELIEF_WEIGHT = 0.01
# A batch is full at the smallest size that gives this share of the most rows per second: more rows would only make all wait longer.
FULL_SHARE = 0.97
# What an execution costs a service besides the model: collating and splitting, waking threads and the loop, sending smaller lots.
HANDLING_S = 0.5e-3
_SHAPES_KEPT = 4096


class _ShapeLatency(NamedTuple):
    """Of one shape, the seconds of 0, 1, 2 ... rows, and the rows of a full batch."""

    promised_s: tuple[float, ...]
    full_rows: int


class LatencyModel:
    """Predicts executions of up to `max_rows` rows, for shapes that list the sizes of `dims`.

    A promise never falls as rows are added: a measured dip is noise, and would make a smaller batch seem more expensive.
    """

    def __init__(self, curve: Curve, dims: Sequence[str], max_rows: int) -> None:
        self.max_rows = max_rows
        self.drift = 1.0
        """How many times its promise an execution has taken lately: a running mean."""
        self.slowdown = 1.0
        """The factor of predictions: rises as fast as the drift, falls slowly, and never below 1."""
        self._curve = curve
        self._dims = tuple(dims)
        self._of_shape = lru_cache(maxsize=_SHAPES_KEPT)(self._measured)

    def full_rows(self, shape: Shape) -> int:
        """Rows above which a batch gives hardly more rows per second."""
        known: _ShapeLatency = self._of_shape(shape)
        return known.full_rows

    def promised_s(self, rows: int, shape: Shape) -> float:
        """The curve's p95 of one execution; 0 where nothing was measured."""
        table = self._of_shape(shape).promised_s
        if rows < len(table):
            return table[rows]
        return max(table[-1], self._curve.p95_s(rows, self._named(shape)))

    def expected_s(self, rows: int, shape: Shape) -> float:
        """The promise, longer by as much as recent executions took longer than promised."""
        return self.promised_s(rows, shape) * self.slowdown

    def observe(self, rows: int, shape: Shape, execution_s: float) -> None:
        """Learn from one finished execution."""
        promised_s = self.promised_s(rows, shape)
        if promised_s > 0:
            ratio = min(execution_s / promised_s, MAX_DRIFT)
            self.drift += DRIFT_WEIGHT * (ratio - self.drift)
            weight = DRIFT_WEIGHT if ratio > self.slowdown else RELIEF_WEIGHT
            self.slowdown = max(1.0, self.slowdown + weight * (ratio - self.slowdown))

    def _measured(self, shape: Shape) -> _ShapeLatency:
        named = self._named(shape)
        table = [0.0]
        for rows in range(1, self.max_rows + 1):
            table.append(max(table[-1], self._curve.p95_s(rows, named)))
        return _ShapeLatency(tuple(table), _full_rows(table))

    def _named(self, shape: Shape) -> dict[str, int]:
        return dict(zip(self._dims, shape, strict=True))


def _full_rows(promised_s: Sequence[float]) -> int:
    """The smallest of 1, 2, 4 ... rows at which an execution gives almost the most rows per second."""
    largest = len(promised_s) - 1
    sizes = [1 << power for power in range((largest - 1).bit_length())] + [largest]
    rates = {rows: rows / (promised_s[rows] + HANDLING_S) for rows in sizes}
    return next(rows for rows, rate in rates.items() if rate >= FULL_SHARE * max(rates.values()))
