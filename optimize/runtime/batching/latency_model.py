"""Seconds that an execution takes: what the curve promised (p95), and what is to be expected on this machine today."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from optimize.runtime.batching.collate import Shape
from optimize.runtime.batching.curve import Curve

# One execution moves the estimate of reality over promise by this share, and counts at most as this many times its promise.
DRIFT_WEIGHT = 0.1
MAX_DRIFT = 10.0
# Predictions forget slow executions ten times as slowly as they heed them: on a crowded machine, they come again.
RELIEF_WEIGHT = 0.01
# A batch is full at the smallest size that gives this share of the most rows a second: with more, all would only wait longer.
FULL_SHARE = 0.97
# What an execution costs a service beside the model: joining and cutting apart, waking threads and the loop, sending in smaller lots.
HANDLING_S = 0.5e-3
_SHAPES_KEPT = 4096


class _Plan(NamedTuple):
    """What is known of one shape: the seconds of 0, 1, 2 ... rows, and the rows of a full batch."""

    promised_s: tuple[float, ...]
    full_rows: int


class Forecast:
    """Predicts executions of up to `max_rows` rows, for shapes that list the sizes of `dims`.

    A promise never falls as rows are added: a measured dip is noise, and planning on it would make a smaller batch seem dearer.
    """

    def __init__(self, curve: Curve, dims: Sequence[str], max_rows: int) -> None:
        self.max_rows = max_rows
        self.drift = 1.0
        """How many times its promise an execution takes lately: a running mean."""
        self.slowdown = 1.0
        """What predictions count with: rises as fast as the drift, falls slowly, and never below 1."""
        self._curve = curve
        self._dims = tuple(dims)
        self._plan = lru_cache(maxsize=_SHAPES_KEPT)(self._make_plan)

    def full_rows(self, shape: Shape) -> int:
        """Rows above which a batch gives hardly more rows a second."""
        plan: _Plan = self._plan(shape)
        return plan.full_rows

    def promised_s(self, rows: int, shape: Shape) -> float:
        """The curve's p95 of one execution; 0 where nothing was measured."""
        table = self._plan(shape).promised_s
        if rows < len(table):
            return table[rows]
        return max(table[-1], self._curve.p95_s(rows, self._named(shape)))

    def expected_s(self, rows: int, shape: Shape) -> float:
        """The promise, lengthened as far as recent executions took longer than promised."""
        return self.promised_s(rows, shape) * self.slowdown

    def observe(self, rows: int, shape: Shape, execution_s: float) -> None:
        """Learn from one finished execution."""
        promised_s = self.promised_s(rows, shape)
        if promised_s > 0:
            ratio = min(execution_s / promised_s, MAX_DRIFT)
            self.drift += DRIFT_WEIGHT * (ratio - self.drift)
            weight = DRIFT_WEIGHT if ratio > self.slowdown else RELIEF_WEIGHT
            self.slowdown = max(1.0, self.slowdown + weight * (ratio - self.slowdown))

    def _make_plan(self, shape: Shape) -> _Plan:
        named = self._named(shape)
        table = [0.0]
        for rows in range(1, self.max_rows + 1):
            table.append(max(table[-1], self._curve.p95_s(rows, named)))
        return _Plan(tuple(table), _full_rows(table))

    def _named(self, shape: Shape) -> dict[str, int]:
        return dict(zip(self._dims, shape, strict=True))


def _full_rows(promised_s: Sequence[float]) -> int:
    """The smallest of 1, 2, 4 ... rows at which an execution gives almost the most rows a second."""
    largest = len(promised_s) - 1
    sizes = [1 << power for power in range((largest - 1).bit_length())] + [largest]
    rates = {rows: rows / (promised_s[rows] + HANDLING_S) for rows in sizes}
    return next(rows for rows, rate in rates.items() if rate >= FULL_SHARE * max(rates.values()))
