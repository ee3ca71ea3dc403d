"""A latency percentile judged against its limit by counting the calls over it: exact for any distribution.

If the percentile p were at the limit, the calls over it would be Bin(n, 1 - p). Few of them show that the percentile is within the
limit, many that it is over. The rule holds for independent calls; if consecutive calls are correlated, the block rule judges instead.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from optimize.manifest import Outcome
from optimize.statistics.binomial import (
    at_least,
    at_most,
    complement,
    fewest,
    least_hits,
    most_hits,
    samples_to_show_less,
    samples_to_show_more,
)
from optimize.statistics.blocks import BLOCKS, block_rule, split_blocks
from optimize.statistics.finding import Finding, finite, settling
from optimize.statistics.quantile import named, quantile
from optimize.statistics.ranks import autocorrelation

Latencies = npt.NDArray[np.floating[Any]]

ALPHA = 0.05
LOOKS = (408, 1228, 4000)
MIN_PROCESSES = 5
SAME_SIDE_SHARE = 0.8
MAX_AUTOCORRELATION = 0.3
CORRELATED_BLOCK_CALLS = LOOKS[-1] // BLOCKS


def percentile_rule(violations: int, n: int, percentile: float, alpha: float = ALPHA) -> Outcome:
    """PASS if P(Bin(n, 1-p) <= violations) <= alpha, FAIL if P(Bin(n, 1-p) >= violations) <= alpha, else INCONCLUSIVE."""
    share = complement(percentile)
    if at_most(violations, n, share) <= alpha:
        return "PASS"
    return "FAIL" if at_least(violations, n, share) <= alpha else "INCONCLUSIVE"


def min_calls(percentile: float) -> int:
    """The fewest calls that can show anything about a percentile, and so the fewest it is printed for: 299 for p99, 5 for p50."""
    return fewest(0, complement(percentile), ALPHA)


def percentile_bounds(latencies_ms: Latencies, percentile: float, confidence: float) -> tuple[float, float]:
    """One-sided bounds of the percentile, each at `confidence`: two of the latencies, chosen only by rank.

    With too few calls the upper bound is infinite, and the lower 0. They agree with :func:`percentile_rule`: the upper
    bound is within a limit exactly when the rule passes, the lower is over it exactly when the rule fails (David and Nagaraja, Order
    Statistics, 3rd ed., section 7.1).
    """
    ordered = np.sort(latencies_ms)
    n, share, alpha = len(ordered), complement(percentile), complement(confidence)
    upper, lower = n - most_hits(n, share, alpha), n + 1 - least_hits(n, share, alpha)
    return (
        float(ordered[lower - 1]) if lower >= 1 else 0.0,
        float(ordered[upper - 1]) if upper <= n else math.inf,
    )


def lag1_autocorrelation(values: npt.NDArray[np.floating[Any]]) -> float:
    """The correlation of each call's rank with that of the next."""
    return autocorrelation(values, 1)


def look(
    latencies_ms: Latencies, limit_ms: float, percentile: float, *, looks: Sequence[int] = LOOKS, noise: float = 0.0
) -> Finding:
    """Judge the calls so far at the last look that they reach, with an equal part of alpha for each look.

    Looks are fixed beforehand and the caller stops at the first PASS or FAIL, so calls beyond a look wait for the next one. If
    consecutive calls are correlated, the block rule judges, once the last look is reached.
    """
    latencies = np.asarray(latencies_ms, float)
    reached = sum(size <= len(latencies) for size in looks)
    if not reached:
        evidence = f"{len(latencies):,} calls; the first look is at {looks[0]:,}"
        return Finding("INCONCLUSIVE", None, None, None, len(latencies), evidence, looks[0])
    judged = latencies[: looks[reached - 1]]
    correlated = lag1_autocorrelation(judged)
    if correlated > MAX_AUTOCORRELATION:
        return _by_blocks(split_blocks(judged), limit_ms, percentile, noise, correlated)
    found = _counted(judged, limit_ms, percentile, ALPHA / len(looks), noise)
    if found.verdict == "INCONCLUSIVE" and reached < len(looks):
        found = msgspec.structs.replace(found, needed=max(found.needed or 0, looks[reached]))
    return _with(found, settling(found.verdict, found.needed, "calls"))


def pooled(
    processes: Sequence[Latencies], limit_ms: float, percentile: float, noise: float = 0.0, alpha: float = ALPHA
) -> Finding:
    """Judge a finalist that ran in several fresh processes: all calls together, and most processes must agree.

    At least 5 processes, each with the calls that its percentile is printed for. The observed percentile of 4 in 5 of them must be on
    the same side of the limit as the pooled verdict, and their mean clear of it by a t test, else INCONCLUSIVE. If consecutive calls
    of a process are correlated, the halves of the processes are blocks, and the block rule judges. A caller who looks in several
    rounds gives each a part of `alpha`.
    """
    runs = [np.asarray(run, float) for run in processes]
    shortest, least = min(map(len, runs), default=0), min_calls(percentile)
    if len(runs) < MIN_PROCESSES or shortest < least:
        needed = max(len(runs), MIN_PROCESSES) * least
        evidence = (
            f"{len(runs)} processes, the shortest of {shortest:,} calls; wanted {MIN_PROCESSES} of at least {least:,} calls each:"
            f" {needed:,} calls in all would settle it"
        )
        return Finding("INCONCLUSIVE", None, None, None, sum(map(len, runs)), evidence, needed)
    correlated = float(np.median([lag1_autocorrelation(run) for run in runs]))
    if correlated > MAX_AUTOCORRELATION:
        return _by_blocks(
            [half for run in runs for half in split_blocks(run, 2)], limit_ms, percentile, noise, correlated
        )
    found = _counted(np.concatenate(runs), limit_ms, percentile, alpha, noise)
    own = [quantile(run, percentile) for run in runs]
    within = sum(value <= limit_ms for value in own)
    found = _with(found, f", {named(percentile)} within the limit in {within} of {len(runs)} processes")
    if found.verdict != "INCONCLUSIVE" and not _confirmed(found.verdict, own, limit_ms, alpha):
        found = msgspec.structs.replace(found, verdict="INCONCLUSIVE", needed=2 * found.n)
        return _with(
            found, f", which differ too much to confirm the pooled verdict; twice the calls ({found.needed:,}) may"
        )
    return _with(found, settling(found.verdict, found.needed, "calls"))


def _confirmed(verdict: Outcome, own: Sequence[float], limit_ms: float, alpha: float) -> bool:
    """Whether the percentiles of the processes agree with the verdict on their pooled calls.

    Calls of one process share its level, so five processes are only five observations. 4 in 5 must be on the same side, and the mean
    of the logarithms must be clear of the limit by a one-sided t test.
    """
    agreeing = sum((value <= limit_ms) == (verdict == "PASS") for value in own)
    if agreeing < SAME_SIDE_SHARE * len(own):
        return False
    if not all(map(math.isfinite, (*own, limit_ms))):
        return verdict == "FAIL" or limit_ms == math.inf
    logs = np.log(own)
    margin = abs(math.log(limit_ms) - float(logs.mean()))
    return margin > float(stdtrit(len(own) - 1, 1.0 - alpha) * logs.std(ddof=1)) / math.sqrt(len(own))


def _counted(latencies: Latencies, limit_ms: float, percentile: float, alpha: float, noise: float) -> Finding:
    """The counting rule; its evidence does not say yet what would settle it."""
    n = len(latencies)
    to_pass, to_fail = _over(latencies, limit_ms * (1.0 - noise)), _over(latencies, limit_ms * (1.0 + noise))
    verdict: Outcome = "INCONCLUSIVE"
    if percentile_rule(to_pass, n, percentile, alpha) == "PASS":
        verdict = "PASS"
    elif percentile_rule(to_fail, n, percentile, alpha) == "FAIL":
        verdict = "FAIL"
    needed = _needed(to_pass, to_fail, n, percentile, alpha) if verdict == "INCONCLUSIVE" else None
    observed, low, high = _estimate(latencies, percentile, alpha)
    evidence = f"{_over(latencies, limit_ms):,} of {n:,} calls over {limit_ms:g} ms, {_shown(observed, n, percentile)}"
    return Finding(verdict, observed, low, high, n, evidence + _noted(noise), needed)


def _by_blocks(
    blocks: Sequence[Latencies], limit_ms: float, percentile: float, noise: float, correlated: float
) -> Finding:
    """The block rule for calls in process, with the limit tightened for PASS and widened for FAIL."""
    found = block_rule(blocks, limit_ms * (1.0 - noise), percentile, CORRELATED_BLOCK_CALLS)
    if found.verdict != "PASS":
        widened = block_rule(blocks, limit_ms * (1.0 + noise), percentile, CORRELATED_BLOCK_CALLS)
        found = msgspec.structs.replace(
            widened, verdict="INCONCLUSIVE" if widened.verdict == "PASS" else widened.verdict
        )
    calls = np.concatenate(blocks)
    if found.observed is None and len(calls) >= min_calls(percentile):
        found = msgspec.structs.replace(found, observed=finite(quantile(calls, percentile)))
    reason = f"consecutive calls are correlated (autocorrelation {correlated:.2f}), so blocks judge{_noted(noise)}: "
    return msgspec.structs.replace(found, evidence=reason + found.evidence)


def _with(found: Finding, clause: str) -> Finding:
    return msgspec.structs.replace(found, evidence=found.evidence + clause)


def _noted(noise: float) -> str:
    return f", limit moved by the machine's noise of {noise:.1%}" if noise else ""


def _over(latencies: Latencies, limit_ms: float) -> int:
    return int(np.count_nonzero(latencies > limit_ms))


def _estimate(latencies: Latencies, percentile: float, alpha: float) -> tuple[float | None, float | None, float | None]:
    """The percentile and its bounds, or None below the calls that it is printed for."""
    if len(latencies) < min_calls(percentile):
        return None, None, None
    low, high = percentile_bounds(latencies, percentile, 1.0 - alpha)
    return finite(quantile(latencies, percentile)), finite(low), finite(high)


def _shown(observed: float | None, n: int, percentile: float) -> str:
    if n < min_calls(percentile):
        return f"too few for a {named(percentile)}"
    return f"{named(percentile)} {observed:.3g} ms" if observed is not None else f"{named(percentile)} is a failed call"


def _needed(to_pass: int, to_fail: int, n: int, percentile: float, alpha: float) -> int | None:
    """Calls that would settle it if the shares over the tightened and the widened limit stay the same."""
    share = complement(percentile)
    if to_fail > share * n:
        needed = samples_to_show_more(share, to_fail / n, alpha)
    else:
        needed = samples_to_show_less(share, to_pass / n, alpha) if to_pass < share * n else None
    return None if needed is None else max(needed, n + 1)
