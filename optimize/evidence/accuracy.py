"""What a candidate lost against the source model on the same samples, held against what it may lose.

A drop is source minus candidate, higher scores being better. PASS when its one-sided upper bound is below the limit, FAIL when its
lower bound is above it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri

from optimize.evidence import bootstrap
from optimize.evidence.binomial import (
    POWER,
    fewest,
    lower_bound,
    samples_to_show_less,
    samples_to_show_more,
    upper_bound,
)
from optimize.evidence.finding import Finding, judge, settling
from optimize.manifest import Outcome

Right = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating[Any]]

MAX_UNDEFINED_SHARE = 0.05


def paired_drop(source_right: Right, candidate_right: Right, max_drop: float, confidence: float) -> Finding:
    """Judge the drop in the share of right answers by Tango's score interval for paired proportions."""
    n = _paired(source_right, candidate_right)
    lost = int(np.count_nonzero(source_right & ~candidate_right))
    won = int(np.count_nonzero(candidate_right & ~source_right))
    drop = (lost - won) / n
    low, high = tango_bounds(lost, won, n, confidence)
    verdict = judge(low, high, max_drop, "lower")
    needed = None
    evidence = (
        f"drop of {_points(drop)} on {n:,} samples ({lost:,} answers lost, {won:,} won), {_span(low, high, confidence)}"
    )
    if verdict == "INCONCLUSIVE":
        needed = _pairs_needed(lost, won, n, max_drop, confidence)
        evidence += f"; {settling(needed, 'samples')}"
    return Finding(verdict, drop, low, high, n, evidence, needed)


def tango_bounds(lost: int, won: int, n: int, confidence: float) -> tuple[float, float]:
    """One-sided score bounds, each at `confidence`, of the difference of two paired proportions, (lost - won) / n.

    Tango, Statistics in Medicine 17, 891-908 (1998): the differences that a score test does not refuse, with the nuisance share at its
    maximum of likelihood under each difference.
    """
    z = float(ndtri(confidence))
    return (
        -1.0
        if lost - won == -n
        else float(brentq(lambda d: _score(lost, won, n, d) - z, -1.0 + 1e-12, (lost - won) / n)),
        1.0 if lost - won == n else float(brentq(lambda d: _score(lost, won, n, d) + z, (lost - won) / n, 1.0 - 1e-12)),
    )


def _score(lost: int, won: int, n: int, difference: float) -> float:
    """Tango's statistic of the hypothesis that the true difference is `difference`."""
    linear = (2 * n - lost + won) * difference - lost - won
    constant = -won * difference * (1.0 - difference)
    won_share = (math.sqrt(max(linear * linear - 8.0 * n * constant, 0.0)) - linear) / (4.0 * n)
    variance = n * (2.0 * won_share + difference * (1.0 - difference))
    distance = lost - won - n * difference
    if variance <= 0.0:
        return 0.0 if distance == 0.0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def pairs_needed(discordant_share: float, gap: float, confidence: float, power: float = POWER) -> int:
    """Samples that show, with chance `power`, on which side of a limit a drop lies that is `gap` away from it.

    (z_confidence + z_power)^2 x discordant share / gap^2, 6.18 at 95 % and 80 % (Lachin, Biometrics 48, 1992, without his small term).
    """
    z = float(ndtri(confidence) + ndtri(power))
    return math.ceil(z * z * discordant_share / (gap * gap))


def _pairs_needed(lost: int, won: int, n: int, max_drop: float, confidence: float) -> int | None:
    gap = abs(max_drop - (lost - won) / n)
    if gap == 0.0:
        return None
    # One more lost answer than was seen: none at all would promise that a few samples settle it.
    by_power = pairs_needed((lost + won + 1) / n, gap, confidence)
    by_zero_lost = fewest(0, max_drop, 1.0 - confidence) if 0.0 < max_drop < 1.0 else 0
    return max(by_power, by_zero_lost, n + 1)


def score_drop(
    source_scores: Scores, candidate_scores: Scores, max_drop: float, confidence: float, seed: int
) -> Finding:
    """Judge the drop in the mean of per-sample scores (higher is better) by a paired bootstrap of 10,000 draws."""
    n = _paired(source_scores, candidate_scores)
    differences = np.asarray(source_scores, float) - np.asarray(candidate_scores, float)
    if not np.isfinite(differences).all():
        return _not_a_number(int(np.count_nonzero(~np.isfinite(differences))), n)
    observed = float(differences.mean())
    found = bootstrap.means(differences, seed)
    return _from_draws(found, observed, n, max_drop, confidence)


def set_drop(
    metric: Callable[[npt.NDArray[np.intp]], tuple[float, float]],
    n: int,
    max_drop: float,
    confidence: float,
    seed: int,
    draws: int | None = None,
) -> Finding:
    """Judge the drop in a metric of a whole set, such as F1 or AUC, by a paired bootstrap over samples.

    `metric` takes sample indices and returns the source's and the candidate's value on them. 10,000 draws, 1,000 where one evaluation
    takes over 10 ms; draws on which the metric is undefined (no positive sample, say) are left out, at most one in twenty.
    """
    observed = float(np.subtract(*metric(np.arange(n))))
    if not math.isfinite(observed):
        return _not_a_number(n, n)

    def drop(indices: npt.NDArray[np.intp]) -> float:
        return float(np.subtract(*metric(indices)))

    found = bootstrap.statistics(drop, n, seed, draws)
    defined = found[np.isfinite(found)]
    if len(defined) < (1.0 - MAX_UNDEFINED_SHARE) * len(found):
        undefined = 1.0 - len(defined) / len(found)
        evidence = f"drop of {observed:.4g}; undefined on {undefined:.0%} of resamples: give more samples of each label"
        return Finding("INCONCLUSIVE", observed, None, None, n, evidence)
    return _from_draws(defined, observed, n, max_drop, confidence)


def _from_draws(found: npt.NDArray[np.float64], observed: float, n: int, max_drop: float, confidence: float) -> Finding:
    low, high = (float(bound) for bound in np.quantile(found, [1.0 - confidence, confidence]))
    verdict = judge(low, high, max_drop, "lower")
    needed = None
    evidence = (
        f"drop of {observed:.4g} on {n:,} samples, {_span_plain(low, high, confidence)} ({len(found):,} resamples)"
    )
    if verdict == "INCONCLUSIVE":
        gap, spread = abs(max_drop - observed), float(found.std()) * math.sqrt(n)
        needed = max(pairs_needed(spread * spread, gap, confidence), n + 1) if gap > 0.0 and spread > 0.0 else None
        evidence += f"; {settling(needed, 'samples')}"
    return Finding(verdict, observed, low, high, n, evidence, needed)


def agreement(equal: npt.NDArray[np.bool_], min_agreement: float, confidence: float) -> Finding:
    """Judge the share of samples whose answer equals the source model's by exact Clopper-Pearson bounds."""
    n, same = len(equal), int(np.count_nonzero(equal))
    low, high = lower_bound(same, n, confidence), upper_bound(same, n, confidence)
    verdict = judge(low, high, min_agreement, "higher")
    needed = None
    evidence = f"{same:,} of {n:,} answers agree ({same / n:.2%}), {_span(low, high, confidence)}"
    if verdict == "INCONCLUSIVE":
        needed = _answers_needed(same / n, min_agreement, 1.0 - confidence)
        needed = None if needed is None else max(needed, n + 1)
        evidence += f"; {settling(needed, 'samples')}"
    return Finding(verdict, same / n, low, high, n, evidence, needed)


def _answers_needed(share: float, min_agreement: float, alpha: float) -> int | None:
    if not 0.0 < min_agreement < 1.0:
        return None
    if share > min_agreement:
        return samples_to_show_more(min_agreement, share, alpha)
    return samples_to_show_less(min_agreement, share, alpha)


def _paired(source: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> int:
    if source.shape != candidate.shape or source.ndim != 1 or not len(source):
        raise ValueError(f"wanted two equally long lists of scores, got shapes {source.shape} and {candidate.shape}")
    return len(source)


def _not_a_number(count: int, n: int) -> Finding:
    verdict: Outcome = "FAIL"
    return Finding(verdict, None, None, None, n, f"the metric is not a number on {count:,} of {n:,} samples")


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"


def _span(low: float, high: float, confidence: float) -> str:
    return f"between {low:.2%} and {high:.2%} (each bound at {confidence:.0%})"


def _span_plain(low: float, high: float, confidence: float) -> str:
    return f"between {low:.4g} and {high:.4g} (each bound at {confidence:.0%})"
