"""Compare a candidate's stored answers with the source model's: what was lost, and how many answers changed."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from optimize.arrays import Array
from optimize.budgets import AccuracyBudget
from optimize.errors import SourceError
from optimize.manifest import Signature
from optimize.source.imports import attribute, user_code
from optimize.source.split_file import read_split
from optimize.statistics import metrics
from optimize.statistics.drop import agreement, paired_drop, score_drop, set_drop
from optimize.statistics.finding import Finding
from optimize.validate import answers

SEED = 20_240_101
MOST_FLIPPED = 20
_CLASSIFYING = ("top1", "f1", "auc")
_NUMERIC = ("mae", "rmse", "spearman")
# Numbers agree when they differ by less than this share of the spread of the source's answers.
NUMBERS_AGREE_WITHIN = 0.01


class Accuracy(Struct, frozen=True):
    """What one split shows: the drop (None without labels), the agreement, and which samples changed."""

    drop: Finding | None
    agreement: Finding
    flipped: tuple[int, ...]
    lost_by_class: dict[str, int]


class Changed(Struct, frozen=True):
    """The share of rows whose answer differs between two recordings."""

    share: float
    n: int


def changed(budget: AccuracyBudget, signature: Signature, first: Path, second: Path) -> Changed:
    """How many answers to the same rows differ between two recordings."""
    name = _output(budget, signature)
    before, after = (_stacked(answers.read_output(path, signature, name)) for path in (first, second))
    equal = _equal(before, after, budget.metric)
    return Changed(float(np.mean(~equal)), len(equal))


def judge(
    budget: AccuracyBudget, base: Path, signature: Signature, split: Path, source: Path, candidate: Path
) -> Accuracy:
    """Judge stored answers to a split.

    Where the budget declares no limit, the finding still has an interval; it is judged against a limit of 0.

    Raises:
        SourceError: The metric cannot be used on these outputs and labels.
    """
    name = _output(budget, signature)
    before, after = (_stacked(answers.read_output(path, signature, name)) for path in (source, candidate))
    labels = _labels(split)
    equal = _equal(before, after, budget.metric)
    flipped = np.flatnonzero(~equal)
    return Accuracy(
        drop=None if labels is None else _drop(budget, base, before, after, labels),
        agreement=agreement(equal, budget.min_agreement or 0.0, budget.confidence),
        flipped=tuple(int(index) for index in flipped[:MOST_FLIPPED]),
        lost_by_class=_lost_by_class(budget, before, after, labels),
    )


def _output(budget: AccuracyBudget, signature: Signature) -> str:
    names = [spec.name for spec in signature.outputs]
    if budget.output is None and len(names) == 1:
        return names[0]
    if budget.output not in names:
        said = "is not declared" if budget.output is None else f"= {budget.output!r} is not one of them"
        raise SourceError(
            f"accuracy.output {said}; the model's outputs are {', '.join(names)}: name the one that the metric reads"
        )
    return budget.output


def _stacked(rows: list[Array]) -> Array:
    """Rows as one array; rows of different shapes as an array of arrays."""
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    ragged = np.empty(len(rows), dtype=object)
    for index, row in enumerate(rows):  # given a list, numpy would try to stack rows that share their first axes
        ragged[index] = row
    return ragged


def _labels(split: Path) -> Array | None:
    found = [batch.labels for batch in read_split(split)]
    if any(labels is None for labels in found):
        return None
    return np.concatenate([labels for labels in found if labels is not None])


def _drop(budget: AccuracyBudget, base: Path, before: Array, after: Array, labels: Array) -> Finding:
    max_drop = budget.max_drop or 0.0
    if ":" not in budget.metric:
        metric = metrics.built_in(budget.metric)
        return metrics.drop(metric, before, after, labels, max_drop, budget.confidence, SEED)
    function = attribute(budget.metric, base)

    def scores(outputs: Array, labels: Array) -> Array:
        with user_code(f"{budget.metric} failed"):
            return np.asarray(function(outputs, labels))

    source, candidate = scores(before, labels), scores(after, labels)
    if source.ndim == 0:

        def both(chosen: npt.NDArray[np.intp]) -> tuple[float, float]:
            return float(scores(before[chosen], labels[chosen])), float(scores(after[chosen], labels[chosen]))

        return set_drop(both, len(labels), max_drop, budget.confidence, SEED)
    if source.shape != (len(labels),):
        raise SourceError(
            f"{budget.metric} gave shape {list(source.shape)}; wanted one score per sample ({len(labels)}), or one number"
        )
    if source.dtype == bool:
        return paired_drop(source, candidate, max_drop, budget.confidence)
    return score_drop(source.astype(float), candidate.astype(float), max_drop, budget.confidence, SEED)


def _equal(before: Array, after: Array, metric: str) -> npt.NDArray[np.bool_]:
    """Which rows have the same answer: the same class, the same discrete values, or nearly the same numbers."""
    if before.dtype == object and before.ndim == 1:
        spread = float(np.std(np.concatenate([row.ravel() for row in before]))) if before[0].dtype.kind == "f" else 0.0
        return np.array([_row_equal(a, b, metric, spread) for a, b in zip(before, after, strict=True)], dtype=bool)
    if before.dtype.kind != "f":
        return _all_axes(before == after)
    if metric not in _NUMERIC and before.ndim > 1 and before.shape[-1] > 1:
        return _all_axes(before.argmax(axis=-1) == after.argmax(axis=-1)) & np.isfinite(_flat(after)).all(axis=1)
    if metric in _CLASSIFYING:
        return _all_axes((before > 0.5) == (after > 0.5))
    return _all_axes(np.abs(before - after) <= NUMBERS_AGREE_WITHIN * float(np.std(before)))


def _row_equal(before: Array, after: Array, metric: str, spread: float) -> bool:
    if before.shape != after.shape:
        return False
    if before.dtype.kind != "f":
        return bool((before == after).all())
    if metric not in _NUMERIC and before.ndim > 0 and before.shape[-1] > 1:
        return bool((before.argmax(axis=-1) == after.argmax(axis=-1)).all())
    return bool((np.abs(before - after) <= NUMBERS_AGREE_WITHIN * spread).all())


def _flat(rows: Array) -> Array:
    return rows.reshape(len(rows), -1)


def _all_axes(equal: Array) -> npt.NDArray[np.bool_]:
    return np.asarray(_flat(equal).all(axis=1), dtype=np.bool_)


def _lost_by_class(budget: AccuracyBudget, before: Array, after: Array, labels: Array | None) -> dict[str, int]:
    """Right answers that became wrong, counted by label, most first; classification by `top1` or `f1` only."""
    if labels is None or budget.metric not in ("top1", "f1"):
        return {}
    top1 = metrics.built_in("top1")
    lost = (top1.read(before, labels) == labels) & (top1.read(after, labels) != labels)
    return {str(label): count for label, count in Counter(labels[lost].tolist()).most_common()}
