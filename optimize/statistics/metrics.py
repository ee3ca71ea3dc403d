"""The built-in accuracy metrics. Higher is always better: errors are negated.

A metric reads a model's answers once (predicted classes, scores or numbers), and then scores them. `right` and `score` metrics give
one value per sample and are their mean; `set` metrics give one number for the whole set.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from optimize.arrays import Array
from optimize.errors import SourceError
from optimize.statistics.drop import paired_drop, score_drop, set_drop
from optimize.statistics.finding import Finding
from optimize.statistics.ranks import correlation, mean_ranks

Scoring = Callable[[Array, Array], Any]

# An 8-bit graph may give a probability a little beyond 0 or 1.
_PROBABILITY_SLACK = 0.05


class Metric(Struct, frozen=True):
    """One metric: `read(outputs, labels)` prepares answers, `scoring(labels)` gives the function that scores them.

    That function takes answers and labels of any rows, and returns one value per row, or one for all of them.
    """

    name: str
    kind: Literal["right", "score", "set"]
    read: Callable[[Array, Array], Array]
    scoring: Callable[[Array], Scoring]

    def value(self, outputs: Array, labels: Array) -> float:
        """The metric of these outputs against these labels.

        Raises:
            SourceError: Outputs and labels do not fit together or do not fit the metric.
        """
        return float(np.mean(self.scoring(labels)(self.read(outputs, labels), labels)))


def built_in(name: str) -> Metric:
    """The metric of that name: top1, f1, auc, mae, rmse or spearman."""
    return _METRICS[name]


def drop(
    metric: Metric,
    source_outputs: Array,
    candidate_outputs: Array,
    labels: Array,
    max_drop: float,
    confidence: float,
    seed: int,
) -> Finding:
    """Judge the candidate's drop in a built-in metric by the rule that fits its kind.

    Raises:
        SourceError: Outputs and labels do not fit together or do not fit the metric.
    """
    source, candidate = metric.read(source_outputs, labels), metric.read(candidate_outputs, labels)
    score = metric.scoring(labels)
    if metric.kind == "right":
        return paired_drop(score(source, labels), score(candidate, labels), max_drop, confidence)
    if metric.kind == "score":
        return score_drop(score(source, labels), score(candidate, labels), max_drop, confidence, seed)

    def both(chosen: npt.NDArray[np.intp]) -> tuple[float, float]:
        return score(source[chosen], labels[chosen]), score(candidate[chosen], labels[chosen])

    return set_drop(both, len(labels), max_drop, confidence, seed)


def _rows(outputs: Array, labels: Array, name: str) -> None:
    if not len(labels):
        raise SourceError(f"metric {name}: no samples; wanted at least one labelled row")
    if "O" in (outputs.dtype.kind, labels.dtype.kind):
        raise SourceError(
            f"metric {name}: outputs are {outputs.dtype}, labels {labels.dtype}; wanted numbers in rows of one shape, or a"
            " custom metric, file.py:attr"
        )
    if outputs.ndim == 0 or len(outputs) != len(labels):
        raise SourceError(
            f"metric {name}: the output has shape {list(outputs.shape)} for {len(labels)} labels; wanted one row per label"
        )


def _classes(name: str) -> Callable[[Array, Array], Array]:
    """Predicted classes: the largest of [rows, classes], or a column of class numbers or of probabilities of class 1."""

    def read(outputs: Array, labels: Array) -> Array:
        _rows(outputs, labels, name)
        _class_labels(labels, name)
        if outputs.ndim == 2 and outputs.shape[1] > 1:
            _within(labels, outputs.shape[1], name)
            # A row with a value that is not finite has no answer; -1 is right for no label.
            return np.where(np.isfinite(outputs).all(axis=1), outputs.argmax(axis=1), -1)
        column = _column(outputs, name)
        if column.dtype.kind in "iub":
            return column.astype(np.int64)
        return np.where(np.isfinite(column), _probabilities(column, labels, name) > 0.5, -1)

    return read


def _probabilities(column: Array, labels: Array, name: str) -> Array:
    finite = column[np.isfinite(column)]
    if finite.size and (finite.min() < -_PROBABILITY_SLACK or finite.max() > 1.0 + _PROBABILITY_SLACK):
        raise SourceError(
            f"metric {name}: a single output column goes from {finite.min():.4g} to {finite.max():.4g}; wanted probabilities of"
            " class 1 (0 to 1), class numbers as integers, or one column per class"
        )
    _within(labels, 2, name)
    return column


def _class_labels(labels: Array, name: str) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise SourceError(
            f"metric {name}: labels have shape {list(labels.shape)} and dtype {labels.dtype}; wanted one integer class per row"
        )
    if labels.min() < 0:
        raise SourceError(
            f"metric {name}: a label is {labels.min()}; wanted classes from 0 on: leave out rows without a label"
        )


def _within(labels: Array, classes: int, name: str) -> None:
    if labels.max() >= classes:
        raise SourceError(f"metric {name}: a label is {labels.max()}; wanted 0 to {classes - 1}, the output's classes")


def _column(outputs: Array, name: str) -> Array:
    if outputs.size != len(outputs):
        raise SourceError(
            f"metric {name}: the output has shape {list(outputs.shape)}; wanted [rows], [rows, 1] or [rows, classes]"
        )
    return outputs.reshape(len(outputs))


def _equal(answers: Array, labels: Array) -> Array:
    right: Array = answers == labels
    return right


def _f1(labels: Array) -> Scoring:
    """F1 of class 1 where all labels are 0 or 1, else the plain mean over the classes in the labels."""
    binary = bool(labels.max() <= 1)

    def score(answers: Array, labels: Array) -> float:
        labels = labels.astype(np.int64)
        classes = int(max(answers.max(), labels.max(), 1)) + 1
        right = np.bincount(labels[answers == labels], minlength=classes)
        claimed = np.bincount(answers[answers >= 0], minlength=classes)
        actual = np.bincount(labels, minlength=classes)
        each = 2.0 * right / np.maximum(claimed + actual, 1)
        return float(each[1]) if binary else float(each[actual > 0].mean())

    return score


def _positive_scores(outputs: Array, labels: Array) -> Array:
    """How much each row looks like class 1: the second column above the first, or the only column."""
    _rows(outputs, labels, "auc")
    _class_labels(labels, "auc")
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise SourceError(
            "metric auc: labels must be 0 and 1, both present; for more classes give a custom metric, file.py:attr"
        )
    if outputs.ndim == 2 and outputs.shape[1] == 2:
        return outputs[:, 1].astype(float) - outputs[:, 0]
    return _column(outputs, "auc").astype(float)


def _auc(scores: Array, labels: Array) -> float:
    """Area under the ROC curve, from the rank sum of the positive rows (Hanley and McNeil, Radiology 143, 1982)."""
    positive = int(np.count_nonzero(labels))
    negative = len(labels) - positive
    if not positive or not negative or not np.isfinite(scores).all():
        return float("nan")
    return (float(mean_ranks(scores)[labels == 1].sum()) - positive * (positive + 1) / 2) / (positive * negative)


def _numbers(name: str) -> Callable[[Array, Array], Array]:
    """Outputs in the shape of the labels, if they differ only by axes of length 1."""

    def read(outputs: Array, labels: Array) -> Array:
        _rows(outputs, labels, name)
        if labels.dtype.kind not in "iubf" or outputs.dtype.kind not in "iubf":
            raise SourceError(f"metric {name}: outputs are {outputs.dtype}, labels {labels.dtype}; wanted numbers")
        if [size for size in outputs.shape[1:] if size != 1] != [size for size in labels.shape[1:] if size != 1]:
            raise SourceError(
                f"metric {name}: outputs have shape {list(outputs.shape)}, labels {list(labels.shape)}; wanted the same"
            )
        return outputs.reshape(labels.shape).astype(float)

    return read


def _mae(answers: Array, labels: Array) -> Array:
    errors: Array = np.abs(answers - labels).reshape(len(labels), -1).mean(axis=1)
    return -errors


def _rmse(answers: Array, labels: Array) -> float:
    return -float(np.sqrt(np.mean(np.square(answers - labels))))


def _spearman(answers: Array, labels: Array) -> float:
    if not np.isfinite(answers).all():
        return float("nan")
    return correlation(mean_ranks(answers.ravel()), mean_ranks(labels.ravel()))


def _for_any_labels(score: Scoring) -> Callable[[Array], Scoring]:
    return lambda _: score


_METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", "right", _classes("top1"), _for_any_labels(_equal)),
        Metric("f1", "set", _classes("f1"), _f1),
        Metric("auc", "set", _positive_scores, _for_any_labels(_auc)),
        Metric("mae", "score", _numbers("mae"), _for_any_labels(_mae)),
        Metric("rmse", "set", _numbers("rmse"), _for_any_labels(_rmse)),
        Metric("spearman", "set", _numbers("spearman"), _for_any_labels(_spearman)),
    )
}
