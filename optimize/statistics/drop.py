"""What a candidate lost against the source model on the same samples, judged against what it may lose.

A drop is source minus candidate, higher scores being better. PASS when its one-sided upper bound is below the limit, FAIL when its
lower bound is above it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from optimize.errors import SourceError
from optimize.statistics import binomial, bootstrap, paired
from optimize.statistics.finding import Finding, judge, settling

Right = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating[Any]]
PairMetric = Callable[[npt.NDArray[np.intp]], tuple[float, float]]

MAX_UNDEFINED_SHARE = 0.05
MIN_RESAMPLED = 100
"""Fewer samples than this prove nothing by resampling: if all of them agree, their resamples do too."""


def paired_drop(source_right: Right, candidate_right: Right, max_drop: float, confidence: float) -> Finding:
    """Judge the drop in the share of right answers by the score bounds of :mod:`optimize.statistics.paired`."""
    n = _paired(source_right, candidate_right)
    lost = int(np.count_nonzero(source_right & ~candidate_right))
    won = int(np.count_nonzero(candidate_right & ~source_right))
    low, high = paired.lower_bound(lost, won, n, confidence), paired.upper_bound(lost, won, n, confidence)
    verdict = judge(low, high, max_drop, "lower")
    needed = paired.pairs_to_settle(lost, won, n, max_drop, confidence) if verdict == "INCONCLUSIVE" else None
    evidence = (
        f"drop of {100 * (lost - won) / n:.2f} points on {n:,} samples ({lost:,} right answers lost, {won:,} won),"
        f" from {100 * low:.2f} to {100 * high:.2f} points ({_each(confidence)})"
    )
    return Finding(verdict, (lost - won) / n, low, high, n, evidence + settling(verdict, needed, "samples"), needed)


def score_drop(
    source_scores: Scores, candidate_scores: Scores, max_drop: float, confidence: float, seed: int
) -> Finding:
    """Judge the drop in the mean of per-sample scores (higher is better) by a paired bootstrap of 10,000 draws."""
    n = _paired(source_scores, candidate_scores)
    source, candidate = np.asarray(source_scores, float), np.asarray(candidate_scores, float)
    _check_source(int(np.count_nonzero(~np.isfinite(source))), n)
    unusable = int(np.count_nonzero(~np.isfinite(candidate)))
    if unusable:
        return _not_a_number(unusable, n)
    drops = source - candidate
    low, high = bootstrap.mean_bounds(drops, confidence, seed)
    return _resampled(float(drops.mean()), low, high, float(drops.std()), n, max_drop, confidence)


def set_drop(
    metric: PairMetric, n: int, max_drop: float, confidence: float, seed: int, draws: int | None = None
) -> Finding:
    """Judge the drop in a metric of a whole set, such as F1 or AUC, by a paired bootstrap over samples.

    `metric` takes sample indices and returns the source's and the candidate's value on them. There are `draws` draws, by default
    10,000, or 1,000 if one evaluation takes over 10 ms. Draws on which the metric is undefined (no positive sample, say) are left
    out, at most one in twenty.
    """
    source_value, candidate_value = metric(np.arange(n))
    _check_source(n * (not math.isfinite(source_value)), n)
    if not math.isfinite(candidate_value):
        return _not_a_number(n, n)
    observed = float(source_value - candidate_value)

    def drop(indices: npt.NDArray[np.intp]) -> float:
        source, candidate = metric(indices)
        return source - candidate

    resampled = bootstrap.statistics(drop, n, seed, draws)
    defined = resampled[np.isfinite(resampled)]
    undefined = 1.0 - len(defined) / len(resampled)
    if undefined > MAX_UNDEFINED_SHARE:
        evidence = f"drop of {observed:.4g}, undefined on {undefined:.0%} of resamples: give more samples of each label"
        return Finding("INCONCLUSIVE", observed, None, None, n, evidence)
    low, high = bootstrap.wider_bounds(defined, observed, confidence)
    return _resampled(observed, low, high, float(defined.std()) * math.sqrt(n), n, max_drop, confidence)


def agreement(equal: Right, min_agreement: float, confidence: float) -> Finding:
    """Judge the share of samples whose answer equals the source model's by exact Clopper-Pearson bounds."""
    n, same = len(equal), int(np.count_nonzero(equal))
    if not n:
        raise ValueError("wanted at least one pair of answers to compare")
    low, high = binomial.lower_bound(same, n, confidence), binomial.upper_bound(same, n, confidence)
    verdict = judge(low, high, min_agreement, "higher")
    needed = None
    if verdict == "INCONCLUSIVE":
        needed = _answers_to_settle(same / n, n, min_agreement, binomial.complement(confidence))
    evidence = f"{same:,} of {n:,} answers agree ({same / n:.2%}), from {low:.2%} to {high:.2%} ({_each(confidence)})"
    return Finding(verdict, same / n, low, high, n, evidence + settling(verdict, needed, "samples"), needed)


def pairs_needed(variance: float, gap: float, confidence: float, power: float = binomial.POWER) -> int:
    """Samples that show, with chance `power`, on which side of a limit `gap` away a mean is whose samples have this variance.

    (z_confidence + z_power)^2 x variance / gap^2: 6.18 x variance / gap^2 at 95 % and 80 %. The variance of right answers lost
    and won in equal numbers is the share of samples that change sides.
    """
    z = float(ndtri(confidence) + ndtri(power))
    return math.ceil(z * z * variance / (gap * gap))


def _resampled(
    observed: float, low: float, high: float, deviation: float, n: int, max_drop: float, confidence: float
) -> Finding:
    verdict = judge(low, high, max_drop, "lower") if n >= MIN_RESAMPLED else "INCONCLUSIVE"
    needed, gap = None, abs(max_drop - observed)
    if verdict == "INCONCLUSIVE" and gap > 0.0:
        needed = max(pairs_needed(deviation * deviation, gap, confidence), n + 1, MIN_RESAMPLED)
    evidence = (
        f"drop of {observed:.4g} on {n:,} samples, from {low:.4g} to {high:.4g} ({_each(confidence)}, by bootstrap)"
    )
    return Finding(verdict, observed, low, high, n, evidence + settling(verdict, needed, "samples"), needed)


def _answers_to_settle(share: float, n: int, min_agreement: float, alpha: float) -> int | None:
    if not 0.0 < min_agreement < 1.0:
        return None
    settles = binomial.samples_to_show_more if share > min_agreement else binomial.samples_to_show_less
    needed = settles(min_agreement, share, alpha)
    return None if needed is None else max(needed, n + 1)


def _paired(source: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> int:
    if source.shape != candidate.shape or source.ndim != 1 or not len(source):
        raise ValueError(f"wanted two equally long lists of scores, got shapes {source.shape} and {candidate.shape}")
    return len(source)


def _check_source(unusable: int, n: int) -> None:
    if unusable:
        raise SourceError(
            f"the source model's metric is not a number on {unusable:,} of {n:,} samples; check its outputs and the labels"
        )


def _not_a_number(count: int, n: int) -> Finding:
    return Finding("FAIL", None, None, None, n, f"the metric is not a number on {count:,} of {n:,} samples")


def _each(confidence: float) -> str:
    return f"{100 * confidence:g} % each way"
