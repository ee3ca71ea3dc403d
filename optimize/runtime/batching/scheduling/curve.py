"""Predict how long an execution takes, from the latencies that export measured per batch size."""

from collections.abc import Sequence
from itertools import pairwise

from optimize.manifest import CurvePoint


class Curve:
    """Piecewise linear p95 latency over batch size, per measured shape.

    A shape that was not measured counts as the measured one with the next more elements, since the work grows with the elements;
    above the largest, as the largest.
    """

    def __init__(self, points: Sequence[CurvePoint]) -> None:
        by_shape: dict[int, list[CurvePoint]] = {}
        for point in points:
            by_shape.setdefault(_elements(point.shape), []).append(point)
        self._shapes = [
            (elements, sorted(group, key=lambda point: point.batch)) for elements, group in sorted(by_shape.items())
        ]

    def p95_s(self, rows: int, shape: dict[str, int] | None = None) -> float:
        """Predicted seconds of one execution of `rows` rows; 0 where nothing was measured.

        Between two measured sizes it interpolates; above the largest it extrapolates in proportion to the rows.
        """
        if not self._shapes:
            return 0.0
        wanted = _elements(shape or {})
        points = next((group for elements, group in self._shapes if elements >= wanted), self._shapes[-1][1])
        if rows <= points[0].batch:
            return points[0].p95_ms / 1e3
        for low, high in pairwise(points):
            if rows <= high.batch:
                share = (rows - low.batch) / (high.batch - low.batch)
                return (low.p95_ms + share * (high.p95_ms - low.p95_ms)) / 1e3
        return points[-1].p95_ms * rows / points[-1].batch / 1e3


def _elements(shape: dict[str, int]) -> int:
    product = 1
    for size in shape.values():
        product *= size
    return product
