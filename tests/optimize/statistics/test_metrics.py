import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from optimize.budgets import BUILT_IN_METRICS
from optimize.errors import SourceError
from optimize.statistics import bootstrap
from optimize.statistics.metrics import built_in, drop

RNG = np.random.default_rng(0)
BINARY = (RNG.random(400) < 0.3).astype(np.int64)
SCORES = BINARY + RNG.normal(0, 0.8, 400)
THREE = RNG.integers(0, 3, 400)
LOGITS = np.eye(3)[THREE] + RNG.normal(0, 0.7, (400, 3))
NUMBERS = RNG.normal(size=400)
CLOSE = NUMBERS + RNG.normal(0, 0.3, 400)


def logits(scores):
    return np.stack([-scores, scores - 1], axis=1)


def probabilities(scores):
    return 1 / (1 + np.exp(1 - 2 * scores))


def test_every_metric_of_the_file_is_built_in():
    assert {built_in(name).name for name in BUILT_IN_METRICS} == set(BUILT_IN_METRICS)


def test_values_are_scikit_learns():
    predicted = LOGITS.argmax(axis=1)
    assert built_in("top1").value(LOGITS, THREE) == pytest.approx(sklearn.metrics.accuracy_score(THREE, predicted))
    assert built_in("f1").value(LOGITS, THREE) == pytest.approx(
        sklearn.metrics.f1_score(THREE, predicted, average="macro")
    )
    assert built_in("f1").value(logits(SCORES), BINARY) == pytest.approx(sklearn.metrics.f1_score(BINARY, SCORES > 0.5))
    assert built_in("auc").value(SCORES, BINARY) == pytest.approx(sklearn.metrics.roc_auc_score(BINARY, SCORES))
    assert built_in("mae").value(CLOSE, NUMBERS) == pytest.approx(-sklearn.metrics.mean_absolute_error(NUMBERS, CLOSE))
    assert built_in("rmse").value(CLOSE, NUMBERS) == pytest.approx(
        -sklearn.metrics.root_mean_squared_error(NUMBERS, CLOSE)
    )
    assert built_in("spearman").value(CLOSE, NUMBERS) == pytest.approx(scipy.stats.spearmanr(CLOSE, NUMBERS).statistic)


def test_ties_are_shared():
    coarse = np.round(SCORES)
    assert built_in("auc").value(coarse, BINARY) == pytest.approx(sklearn.metrics.roc_auc_score(BINARY, coarse))
    rough = np.round(CLOSE)
    assert built_in("spearman").value(rough, NUMBERS) == pytest.approx(scipy.stats.spearmanr(rough, NUMBERS).statistic)


@pytest.mark.parametrize("name", ["top1", "f1", "auc"])
def test_one_column_and_two_columns_give_the_same(name):
    metric, two = built_in(name), built_in(name).value(logits(SCORES), BINARY)
    assert metric.value(probabilities(SCORES), BINARY) == pytest.approx(two)
    assert metric.value(probabilities(SCORES)[:, None], BINARY) == pytest.approx(two)


@pytest.mark.parametrize("name", ["top1", "f1"])
@pytest.mark.parametrize("labels", [BINARY, BINARY.astype(bool), BINARY.astype(np.uint64), BINARY.astype(np.int8)])
def test_class_numbers_are_answers_as_they_are(name, labels):
    numbers = (SCORES > 0.5).astype(np.int64)
    assert built_in(name).value(numbers, labels) == pytest.approx(built_in(name).value(logits(SCORES), BINARY))


def test_f1_of_a_resample_stays_the_f1_of_the_whole_set():
    """Rows of which none is of class 2 are still scored over the classes, since the set has three."""
    metric = built_in("f1")
    answers = metric.read(LOGITS, THREE)
    chosen = np.flatnonzero((THREE < 2) & (answers < 2))
    expected = sklearn.metrics.f1_score(THREE[chosen], answers[chosen], average="macro")
    assert metric.scoring(THREE)(answers[chosen], THREE[chosen]) == pytest.approx(expected)


def test_errors_are_negated_so_that_higher_is_better():
    for name in ("mae", "rmse"):
        assert built_in(name).value(NUMBERS + 0.1, NUMBERS) > built_in(name).value(NUMBERS + 0.2, NUMBERS)


def test_several_numbers_a_row():
    labels = RNG.normal(size=(50, 4))
    outputs = labels + 0.5
    assert built_in("mae").value(outputs, labels) == pytest.approx(-0.5)
    assert built_in("rmse").value(outputs, labels) == pytest.approx(-0.5)
    assert built_in("mae").value(CLOSE[:, None], NUMBERS) == pytest.approx(built_in("mae").value(CLOSE, NUMBERS))


def test_a_row_that_is_no_number_is_answered_wrong():
    broken = LOGITS.copy()
    broken[:10, 1] = np.nan
    right = LOGITS.argmax(axis=1) == THREE
    assert built_in("top1").value(broken, THREE) == pytest.approx(right[10:].sum() / 400)


def test_a_probability_may_be_rounded_beyond_its_ends():
    assert built_in("top1").value(np.array([-0.004, 1.004]), np.array([0, 1])) == 1.0


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "said"),
    [
        ("top1", LOGITS[:10], THREE, "output has shape .10, 3. for 400 labels; wanted one row per label"),
        ("top1", LOGITS[:0], THREE[:0], "no samples"),
        ("top1", LOGITS, THREE.astype(float), "dtype float64; wanted one integer class per row"),
        ("top1", LOGITS, np.stack([THREE, THREE], 1), "labels have shape .400, 2."),
        ("top1", LOGITS[:, :2], THREE, "a label is 2; wanted 0 to 1"),
        ("top1", LOGITS, THREE - 1, "a label is -1; wanted classes from 0 on"),
        ("top1", 3 * SCORES, BINARY, "wanted probabilities of class 1"),
        ("top1", probabilities(SCORES), THREE, "a label is 2; wanted 0 to 1"),
        ("top1", LOGITS[:, :, None], THREE, r"wanted \[rows\], \[rows, 1\] or \[rows, classes\]"),
        ("f1", LOGITS[:, :2], THREE, "a label is 2; wanted 0 to 1"),
        ("auc", LOGITS, THREE, "labels must be 0 and 1, both present"),
        ("auc", SCORES, np.ones(400, int), "both present"),
        ("auc", LOGITS, BINARY, "metric auc: the output has shape .400, 3."),
        ("mae", LOGITS, NUMBERS, "outputs have shape .400, 3., labels .400.; wanted the same"),
        ("rmse", CLOSE, np.array(["a"] * 400), "labels <U1; wanted numbers"),
        ("spearman", np.array([np.zeros(2), None], object), np.zeros(2), "wanted numbers in rows of one shape"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(name, outputs, labels, said):
    with pytest.raises(SourceError, match=said) as raised:
        built_in(name).value(outputs, labels)
    assert str(raised.value).startswith(f"metric {name}: ")
    assert "\n" not in str(raised.value)


def candidate(name):
    if name in ("top1", "f1"):
        return LOGITS, LOGITS + RNG.normal(0, 0.02, LOGITS.shape), THREE
    if name == "auc":
        return SCORES, SCORES + RNG.normal(0, 0.02, 400), BINARY
    return CLOSE, CLOSE + RNG.normal(0, 0.02, 400), NUMBERS


@pytest.mark.parametrize("name", BUILT_IN_METRICS)
def test_each_metric_is_judged(name, monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 500)
    source, slight, labels = candidate(name)
    metric = built_in(name)
    found = drop(metric, source, slight, labels, 0.05, 0.95, 0)
    assert found.verdict == "PASS"
    assert found.n == 400
    assert found.observed == pytest.approx(metric.value(source, labels) - metric.value(slight, labels))
    shuffled = np.random.default_rng(1).permutation(source)
    assert drop(metric, source, shuffled, labels, 0.05, 0.95, 0).verdict == "FAIL"
