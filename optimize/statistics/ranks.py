"""Ranks of values, which AUC, Spearman's correlation and the autocorrelation are computed from."""

from typing import Any

import numpy as np
import numpy.typing as npt


def mean_ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Rank of each value from 1; ties share the mean rank."""
    order = np.argsort(values)
    ordered = values[order]
    edges = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((edges[:-1] + edges[1:] + 1) / 2.0, np.diff(edges))
    return ranks


def correlation(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Pearson's correlation of two equally long arrays; NaN if one is constant."""
    x, y = a - np.mean(a), b - np.mean(b)
    scale = float(np.sqrt(np.dot(x, x) * np.dot(y, y)))
    return float(np.dot(x, y)) / scale if scale > 0.0 else float("nan")


def autocorrelation(values: npt.NDArray[np.floating[Any]], lag: int) -> float:
    """The correlation of the ranks of values `lag` apart; 0 if there is nothing to compare.

    It takes ranks, since in a plain correlation one outlier would hide the correlation of all other values.
    """
    if len(values) < lag + 2:
        return 0.0
    ranks = mean_ranks(values)
    found = correlation(ranks[:-lag], ranks[lag:])
    return 0.0 if np.isnan(found) else found
