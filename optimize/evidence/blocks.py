"""A percentile held against its limit where calls are not independent.

Queued calls wait for each other, so one bad moment makes many slow calls and a binomial rule takes them for many proofs. Blocks of
consecutive calls that are long against such a moment are nearly independent: the percentile of each of eight must agree.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from optimize.evidence.finding import Finding, finite
from optimize.evidence.quantile import named, quantile

Latencies = npt.NDArray[np.floating[Any]]

BLOCKS = 8
MIN_BLOCK_CALLS = 2000
_CHANCE_OF_ALL_Z = 1.92  # each of 8 blocks within with 0.8 ** (1 / 8) = 0.9725 makes all within with 0.8


def split_blocks(latencies_in_schedule_order: Latencies, blocks: int = BLOCKS) -> list[Latencies]:
    """Consecutive blocks of nearly equal length, in order; no call is left out."""
    return list(np.array_split(np.asarray(latencies_in_schedule_order, float), blocks))


def block_rule(
    blocks: Sequence[Latencies], limit_ms: float, percentile: float = 0.99, min_calls: int = MIN_BLOCK_CALLS
) -> Finding:
    """PASS when the percentile of every block is within the limit, FAIL when of none, else INCONCLUSIVE.

    `blocks` are latencies in milliseconds in the order of their schedule, with infinity for a call that failed. Fewer than 8 blocks,
    or a block of fewer than `min_calls` calls, prove nothing. `low` and `high` are the best and the worst block.
    """
    sizes = [len(block) for block in blocks]
    calls = sum(sizes)
    name = named(percentile)
    wanted = max(BLOCKS, len(blocks)) * min_calls
    if len(blocks) < BLOCKS or min(sizes) < min_calls:
        least = f", the shortest of {min(sizes):,} calls" if sizes else ""
        return Finding(
            "INCONCLUSIVE",
            None,
            None,
            None,
            calls,
            f"{len(blocks)} blocks{least}; wanted {BLOCKS} of at least {min_calls:,} calls each ({wanted:,} calls in all)",
            wanted,
        )
    percentiles = [quantile(block, percentile) for block in blocks]
    within = sum(value <= limit_ms for value in percentiles)
    observed = quantile(np.concatenate(blocks), percentile)
    verdict, needed = _verdict(within, percentiles, limit_ms, calls)
    worst, best = max(percentiles), min(percentiles)
    evidence = (
        f"{name} within {limit_ms:g} ms in {within} of {len(blocks)} blocks of {min(sizes):,} calls"
        f" (best {_shown(best)}, worst {_shown(worst)})"
    )
    if verdict == "INCONCLUSIVE" and needed is not None:
        evidence += f"; about {needed:,} calls in all would settle it"
    return Finding(verdict, finite(observed), finite(best), finite(worst), calls, evidence, needed)


def _verdict(
    within: int, percentiles: Sequence[float], limit_ms: float, calls: int
) -> tuple[Literal["PASS", "FAIL", "INCONCLUSIVE"], int | None]:
    if within == len(percentiles):
        return "PASS", None
    if within == 0:
        return "FAIL", None
    return "INCONCLUSIVE", _needed(percentiles, limit_ms, calls)


def _needed(percentiles: Sequence[float], limit_ms: float, calls: int) -> int | None:
    """Calls with which all blocks would probably agree: their spread shrinks with the root of their length."""
    if not all(math.isfinite(value) for value in percentiles):
        return None
    gap = abs(limit_ms - float(np.mean(percentiles)))
    spread = float(np.std(percentiles, ddof=1))
    if gap == 0.0:
        return None
    return max(math.ceil(calls * (_CHANCE_OF_ALL_Z * spread / gap) ** 2), calls + 1)


def _shown(value_ms: float) -> str:
    return f"{value_ms:.3g} ms" if math.isfinite(value_ms) else "a failed call"
