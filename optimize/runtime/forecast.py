"""Seconds that an execution takes: what the curve promised (p95), and what is to be expected on this machine today."""

from collections.abc import Sequence
from functools import lru_cache

from optimize.runtime.curve import Curve
from optimize.runtime.joining import Shape

# One execution moves the estimate of reality over promise by this share, and counts at most as this many times its promise.
DRIFT_WEIGHT = 0.1
MAX_DRIFT = 10.0
_SHAPES_KEPT = 4096


class Forecast:
    """Predicts executions of up to `max_rows` rows, for shapes that list the sizes of `dims`.

    A promise never falls as rows are added: a measured dip is noise, and planning on it would make a smaller batch seem dearer.
    """

    def __init__(self, curve: Curve, dims: Sequence[str], max_rows: int) -> None:
        self.max_rows = max_rows
        self.drift = 1.0
        self._curve = curve
        self._dims = tuple(dims)
        self._table = lru_cache(maxsize=_SHAPES_KEPT)(self._compute_table)

    def promised_s(self, rows: int, shape: Shape) -> float:
        """The curve's p95 of one execution; 0 where nothing was measured."""
        table = self._table(shape)
        if rows < len(table):
            return table[rows]
        return max(table[-1], self._curve.p95_s(rows, self._named(shape)))

    def expected_s(self, rows: int, shape: Shape) -> float:
        """The promise, lengthened as far as recent executions took longer than promised."""
        return self.promised_s(rows, shape) * self.slowdown

    @property
    def slowdown(self) -> float:
        """The drift where it is for the worse: a lucky spell shortens no prediction."""
        return max(1.0, self.drift)

    def observe(self, rows: int, shape: Shape, execution_s: float) -> None:
        """Learn from one finished execution."""
        promised_s = self.promised_s(rows, shape)
        if promised_s > 0:
            ratio = min(execution_s / promised_s, MAX_DRIFT)
            self.drift += DRIFT_WEIGHT * (ratio - self.drift)

    def _compute_table(self, shape: Shape) -> tuple[float, ...]:
        named = self._named(shape)
        table = [0.0]
        for rows in range(1, self.max_rows + 1):
            table.append(max(table[-1], self._curve.p95_s(rows, named)))
        return tuple(table)

    def _named(self, shape: Shape) -> dict[str, int]:
        return dict(zip(self._dims, shape, strict=True))
