"""Two candidates timed in one interleaved run (ABBA), compared by the ratio of their block medians.

The i-th block of A and the i-th of B ran side by side, so a machine that slows down slows both, and their ratio stays the same.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from optimize.statistics import bootstrap
from optimize.statistics.binomial import complement
from optimize.statistics.finding import Finding, judge, settling

Latencies = npt.NDArray[np.floating[Any]]

BLOCK_CALLS = 50
MIN_PAIRS = 20
MIN_GAIN = 0.03
CONFIDENCE = 0.95


class Comparison(Struct, frozen=True):
    """How many times as fast A is as B, with one-sided 95 % bounds, and whether the difference is large enough to count."""

    ratio: float
    low: float
    high: float
    outcome: Literal["faster", "slower", "tie"]
    pairs: int
    evidence: str


def faster(
    a_ms_blocks: Sequence[Latencies], b_ms_blocks: Sequence[Latencies], min_gain: float = MIN_GAIN, *, seed: int
) -> Comparison:
    """Compare A with B: `faster` or `slower` when the bound of their ratio clears `min_gain`, else `tie`.

    Fewer than 20 pairs of blocks are always a tie.
    """
    ratio, low, high = _ratio(_medians(b_ms_blocks), _medians(a_ms_blocks), CONFIDENCE, seed)
    pairs = len(a_ms_blocks)
    outcome: Literal["faster", "slower", "tie"] = "tie"
    if pairs >= MIN_PAIRS:
        outcome = "faster" if low > 1.0 + min_gain else "slower" if high < 1.0 / (1.0 + min_gain) else "tie"
    evidence = f"{ratio:.3f} times as fast ({low:.3f} to {high:.3f}, {pairs} pairs of blocks); a difference must clear {min_gain:.0%}"
    return Comparison(ratio, low, high, outcome, pairs, evidence)


def speedup(
    candidate_rows_per_s: npt.ArrayLike,
    reference_rows_per_s: npt.ArrayLike,
    limit: float,
    *,
    kind: Literal["min_speedup", "max_slowdown"],
    confidence: float = CONFIDENCE,
    seed: int,
) -> Finding:
    """Judge `speed.min_speedup` (candidate over reference) or `speed.max_slowdown` (reference over candidate).

    The i-th entries are rows per second of blocks that ran side by side.
    """
    candidate, reference = np.asarray(candidate_rows_per_s, float), np.asarray(reference_rows_per_s, float)
    quick, slow = (candidate, reference) if kind == "min_speedup" else (reference, candidate)
    ratio, low, high = _ratio(quick, slow, confidence, seed)
    pairs = len(candidate)
    words = "times the reference's rows per second" if kind == "min_speedup" else "times as slow as the reference"
    evidence = (
        f"{ratio:.3f} {words}, from {low:.3f} to {high:.3f} ({100 * confidence:g} % each way, {pairs} pairs of blocks)"
    )
    if pairs < MIN_PAIRS:
        return Finding("INCONCLUSIVE", ratio, low, high, pairs, f"{evidence}; wanted {MIN_PAIRS} pairs", MIN_PAIRS)
    verdict = judge(low, high, limit, "higher" if kind == "min_speedup" else "lower")
    needed = None
    if verdict == "INCONCLUSIVE":
        gap = abs(math.log(ratio / limit))
        # Bounds narrow with the root of the pairs; half as much more, since the observed ratio moves as well.
        needed = max(math.ceil(pairs * (1.5 * math.log(high / low) / 2 / gap) ** 2), pairs + 1) if gap else None
    return Finding(verdict, ratio, low, high, pairs, evidence + settling(verdict, needed, "pairs of blocks"), needed)


def machine_noise(a_ms_blocks: Sequence[Latencies], again_ms_blocks: Sequence[Latencies], *, seed: int) -> float:
    """How far apart two interleaved runs of the same model seem, as a share: the farther bound of their ratio."""
    _, low, high = _ratio(_medians(a_ms_blocks), _medians(again_ms_blocks), CONFIDENCE, seed)
    return max(high, 1.0 / low) - 1.0


def _medians(blocks: Sequence[Latencies]) -> npt.NDArray[np.float64]:
    return np.array([np.median(block) for block in blocks])


def _ratio(
    numerators: npt.NDArray[np.float64], denominators: npt.NDArray[np.float64], confidence: float, seed: int
) -> tuple[float, float, float]:
    """Median ratio of the pairs, which a burst in some of them does not move, and its bootstrap bounds, each at `confidence`."""
    if numerators.shape != denominators.shape or not numerators.size:
        raise ValueError(f"wanted equally many blocks of both, got {numerators.size} and {denominators.size}")
    logs = np.log(numerators / denominators)
    low, high = np.quantile(bootstrap.medians(logs, seed), [complement(confidence), confidence])
    return math.exp(float(np.median(logs))), math.exp(low), math.exp(high)
