"""A percentile judged against its limit where calls are not independent.

Queued calls wait for each other, so one bad moment makes many slow calls, and a rule that counts calls takes them for many
observations. Blocks of consecutive calls that are much longer than such a moment are nearly independent: the percentiles of eight
blocks must agree.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from optimize.manifest import Outcome
from optimize.statistics.finding import Finding, finite, settling
from optimize.statistics.quantile import named, quantile
from optimize.statistics.ranks import autocorrelation

Latencies = npt.NDArray[np.floating[Any]]

BLOCKS = 8
MIN_BLOCK_CALLS = 2000

# In a single queue, calls a fortieth of a block apart correlate less than this in 98 of 100 runs at 0.8 load, and more in 99 at 0.9.
SATURATED = 0.1
_BLOCK_FRACTION = 40

_ALL_AGREE_Z = 1.92  # if each of 8 blocks is on its side with chance 0.8 ** (1 / 8) = 0.9725, all are with chance 0.8


def split_blocks(latencies_in_schedule_order: Latencies, blocks: int = BLOCKS) -> list[Latencies]:
    """Consecutive blocks of nearly equal length, in order; no call is left out."""
    return list(np.array_split(np.asarray(latencies_in_schedule_order, float), blocks))


def block_rule(
    blocks: Sequence[Latencies], limit_ms: float, percentile: float = 0.99, min_calls: int = MIN_BLOCK_CALLS
) -> Finding:
    """PASS when the percentile of every block is within the limit, FAIL when that of none is, else INCONCLUSIVE.

    `blocks` are latencies in milliseconds in the order of their schedule, with infinity for a call that failed. Fewer than 8 blocks,
    or a block of fewer than `min_calls` calls, prove nothing. `low` and `high` are the best and the worst block.
    """
    shortest = min(map(len, blocks), default=0)
    if len(blocks) < BLOCKS or shortest < min_calls:
        return _too_few(blocks, shortest, min_calls)
    calls = np.concatenate(blocks)
    percentiles = [quantile(block, percentile) for block in blocks]
    within = sum(value <= limit_ms for value in percentiles)
    verdict: Outcome = "PASS" if within == len(blocks) else "INCONCLUSIVE" if within else "FAIL"
    needed = _needed(percentiles, limit_ms, len(calls)) if verdict == "INCONCLUSIVE" else None
    best, worst = min(percentiles), max(percentiles)
    evidence = (
        f"{named(percentile)} within {limit_ms:g} ms in {within} of {len(blocks)} blocks of {shortest:,} calls"
        f" (best {_shown(best)}, worst {_shown(worst)})"
    )
    if verdict == "PASS":
        evidence += _saturation(calls, shortest)
    elif needed is not None:
        evidence += settling(verdict, needed, "calls")
    observed = quantile(calls, percentile)
    return Finding(verdict, finite(observed), finite(best), finite(worst), len(calls), evidence, needed)


def _too_few(blocks: Sequence[Latencies], shortest: int, min_calls: int) -> Finding:
    calls = sum(map(len, blocks))
    needed = max(BLOCKS, len(blocks)) * min_calls
    evidence = (
        f"{len(blocks)} blocks, the shortest of {shortest:,} calls; wanted {BLOCKS} of at least {min_calls:,} calls each:"
        f" {needed:,} calls in all would settle it"
    )
    return Finding("INCONCLUSIVE", None, None, None, calls, evidence, needed)


def _needed(percentiles: Sequence[float], limit_ms: float, calls: int) -> int | None:
    """Calls with which all blocks would probably agree: their spread shrinks with the root of their length."""
    if not all(map(math.isfinite, percentiles)):
        return None
    gap = abs(limit_ms - float(np.mean(percentiles)))
    spread = float(np.std(percentiles, ddof=1))
    return max(math.ceil(calls * (_ALL_AGREE_Z * spread / gap) ** 2), calls + 1) if gap > 0.0 else None


def _saturation(calls: Latencies, block_calls: int) -> str:
    """A warning if calls correlate over a large part of a block, so that blocks are not independent either."""
    lag = max(block_calls // _BLOCK_FRACTION, 1)
    correlated = autocorrelation(calls, lag)
    if correlated <= SATURATED:
        return ""
    return f"; calls {lag} apart still correlate ({correlated:.2f}), as near saturation: a PASS close to the limit is wrong more often"


def _shown(value_ms: float) -> str:
    return f"{value_ms:.3g} ms" if math.isfinite(value_ms) else "a failed call"
