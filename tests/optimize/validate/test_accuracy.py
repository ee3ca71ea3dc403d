from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimize.budgets import AccuracyBudget
from optimize.errors import SourceError
from optimize.manifest import Signature, TensorSpec
from optimize.validate import accuracy
from optimize.validate.accuracy import Accuracy
from tests.optimize.model_refs import SIGNATURE, X, stored

CLASSES = 4


def logits(answers: np.ndarray) -> np.ndarray:
    return np.eye(CLASSES, dtype=np.float32)[answers]


def recorded(path: Path, rows: Any, name: str = "y") -> Path:
    """Answers as a model_ref would have left them: one execution a row, or one for all where rows is an array."""
    groups = [rows] if isinstance(rows, np.ndarray) else [np.asarray(row)[None] for row in rows]
    np.savez(path, **{f"{index}/{name}": group for index, group in enumerate(groups)})
    return path


def judged(
    folder: Path, before: Any, after: Any, labels: Any = None, signature: Signature = SIGNATURE, **budget: Any
) -> Accuracy:
    split = stored(folder, np.zeros((len(before), 4), np.float32), labels=labels)
    files = [recorded(folder / f"{name}.npz", rows) for name, rows in (("before", before), ("after", after))]
    return accuracy.judge(AccuracyBudget(**budget), folder, signature, split, *files)


@pytest.fixture
def answers() -> np.ndarray:
    return np.random.default_rng(0).integers(0, CLASSES, 2000)


def test_same_answers_lose_nothing(tmp_path: Path, answers: np.ndarray) -> None:
    found = judged(tmp_path, logits(answers), logits(answers), answers, max_drop=0.01, min_agreement=0.95)
    assert found.drop is not None
    assert (found.drop.verdict, found.drop.observed) == ("PASS", 0.0)
    assert (found.agreement.verdict, found.agreement.observed) == ("PASS", 1.0)
    assert (found.flipped, found.lost_by_class) == ((), {})


def test_wrong_answers_are_a_drop_and_named(tmp_path: Path, answers: np.ndarray) -> None:
    after = answers.copy()
    after[::10] = (after[::10] + 1) % CLASSES
    found = judged(tmp_path, logits(answers), logits(after), answers, max_drop=0.05, min_agreement=0.95)
    assert found.drop is not None
    assert (found.drop.verdict, found.drop.observed) == ("FAIL", pytest.approx(0.1))
    assert (found.agreement.verdict, found.agreement.observed) == ("FAIL", pytest.approx(0.9))
    assert found.flipped == tuple(range(0, 200, 10))
    assert sum(found.lost_by_class.values()) == 200


def test_answers_may_change_without_any_drop(tmp_path: Path, answers: np.ndarray) -> None:
    labels = np.where(answers >= 2, 0, answers)  # answers 2 and 3 are wrong, so swapping them loses nothing
    after = np.select([answers == 2, answers == 3], [3, 2], answers)
    found = judged(tmp_path, logits(answers), logits(after), labels, max_drop=0.02, min_agreement=0.95)
    assert found.drop is not None
    assert (found.drop.verdict, found.drop.observed) == ("PASS", 0.0)
    assert found.agreement.verdict == "FAIL"


def test_few_samples_decide_nothing_and_say_how_many_would(tmp_path: Path, answers: np.ndarray) -> None:
    few = answers[:50]
    found = judged(tmp_path, logits(few), logits(few), few, max_drop=0.02)
    assert found.drop is not None
    assert found.drop.verdict == "INCONCLUSIVE"
    assert found.drop.needed is not None
    many = np.resize(answers, found.drop.needed)
    again = judged(tmp_path, logits(many), logits(many), many, max_drop=0.02)
    assert again.drop is not None
    assert again.drop.verdict == "PASS"


def test_samples_without_labels_show_agreement_alone(tmp_path: Path, answers: np.ndarray) -> None:
    found = judged(tmp_path, logits(answers), logits(answers), min_agreement=0.95)
    assert (found.drop, found.agreement.verdict) == (None, "PASS")


def test_row_with_nan_has_no_answer_that_agrees(tmp_path: Path, answers: np.ndarray) -> None:
    after = logits(answers)
    after[:5, answers[0] - 1] = np.nan
    assert judged(tmp_path, logits(answers), after, min_agreement=0.5).flipped == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("metric", "before", "after", "flipped"),
    [
        ("top1", [[0.0, 1.0], [1.0, 0.0]], [[0.0, 9.0], [0.2, 0.3]], (1,)),  # a class is an answer, its score is not
        ("top1", [[0.2], [0.7]], [[0.4], [0.4]], (1,)),  # one column is the probability of class 1
        ("top1", [0.2, 0.7], [0.6, 0.7], (0,)),
        ("mae", [0.0, 1.0, 2.0], [0.001, 1.2, 2.0], (1,)),  # numbers agree within a share of their spread
        ("mae", [[0.0, 1.0], [1.0, 0.0]], [[0.0, 9.0], [1.0, 0.0]], (0,)),
    ],
)
def test_what_counts_as_the_same_answer(
    tmp_path: Path, metric: str, before: Any, after: Any, flipped: tuple[int, ...]
) -> None:
    arrays = (np.array(rows, np.float32) for rows in (before, after))
    assert judged(tmp_path, *arrays, metric=metric, min_agreement=0.5).flipped == flipped


@pytest.mark.parametrize("dtype", ["int64", "bool", "<U6"])
def test_discrete_answers_agree_when_they_are_equal(tmp_path: Path, dtype: str) -> None:
    before = np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype)
    after = before.copy()
    after[2] = before[1]
    assert judged(tmp_path, before, after, min_agreement=0.5).flipped == (2,)


def test_answers_that_differ_in_their_last_axis_alone_are_compared(tmp_path: Path) -> None:
    before = [np.eye(3, 2, dtype=np.float32), np.eye(3, 4, dtype=np.float32)]
    assert judged(tmp_path, before, [before[0], before[1][::-1]], min_agreement=0.1).flipped == (1,)


def test_answers_of_different_shapes_are_compared_row_by_row(tmp_path: Path) -> None:
    before = [np.zeros((3, 2), np.float32), np.zeros((3, 4), np.float32), np.zeros((1, 2), np.float32)]
    after = [before[0], np.eye(3, 4, dtype=np.float32)[::-1], np.zeros((2, 2), np.float32)]
    assert judged(tmp_path, before, after, min_agreement=0.1).flipped == (1, 2)


METRICS = """
import numpy as np
def per_row(outputs, labels): return (outputs.argmax(1) == labels) * 2.0
def right(outputs, labels): return outputs.argmax(1) == labels
def of_the_set(outputs, labels): return float((outputs.argmax(1) == labels).mean())
def too_short(outputs, labels): return np.zeros(len(labels) - 1)
def fails(outputs, labels): raise KeyError("column")
"""


@pytest.mark.parametrize(("name", "drop"), [("per_row", 0.2), ("right", 0.1), ("of_the_set", 0.1)])
def test_metric_of_the_users_own(tmp_path: Path, answers: np.ndarray, name: str, drop: float) -> None:
    (tmp_path / "metrics.py").write_text(METRICS)
    answers = answers[:300]
    after = answers.copy()
    after[::10] = (after[::10] + 1) % CLASSES
    found = judged(tmp_path, logits(answers), logits(after), answers, metric=f"metrics.py:{name}", max_drop=0.5)
    assert found.drop is not None
    assert (found.drop.verdict, found.drop.observed) == ("PASS", pytest.approx(drop))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "too_short",
            r"metrics\.py:too_short gave shape \[1999\]; wanted one score per sample \(2000\), or one number",
        ),
        ("fails", r"metrics\.py:fails failed: KeyError: 'column'"),
    ],
)
def test_metric_that_does_not_work_is_reported(tmp_path: Path, answers: np.ndarray, name: str, message: str) -> None:
    (tmp_path / "metrics.py").write_text(METRICS)
    with pytest.raises(SourceError, match=message):
        judged(tmp_path, logits(answers), logits(answers), answers, metric=f"metrics.py:{name}", max_drop=0.1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2000, 3), int), "metric top1: "),
        (np.full(2000, 7), "metric top1: .* 7.*wanted 0 to 3"),
        (np.array(["yes"] * 2000), "metric top1: "),
    ],
)
def test_labels_that_the_metric_cannot_read_are_refused(
    tmp_path: Path, answers: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        judged(tmp_path, logits(answers), logits(answers), labels, max_drop=0.1)


TWO = Signature((X,), (TensorSpec("y", "float32", ("batch", 4)), TensorSpec("other", "float32", ("batch",))))


def test_of_several_outputs_one_must_be_named(tmp_path: Path, answers: np.ndarray) -> None:
    arguments = (tmp_path, logits(answers), logits(answers), answers, TWO)
    assert judged(*arguments, output="y", max_drop=0.1).drop is not None
    with pytest.raises(SourceError, match=r"accuracy\.output is not declared; the model's outputs are y, other"):
        judged(*arguments, max_drop=0.1)
    with pytest.raises(SourceError, match=r"accuracy\.output = 'z' is not one of them"):
        judged(*arguments, output="z", max_drop=0.1)


def test_changed_share_of_two_recordings(tmp_path: Path, answers: np.ndarray) -> None:
    after = answers.copy()
    after[:20] = (after[:20] + 1) % CLASSES
    files = [
        recorded(tmp_path / f"{name}.npz", logits(rows)) for name, rows in (("batched", answers), ("alone", after))
    ]
    found = accuracy.changed(AccuracyBudget(), SIGNATURE, *files)
    assert (found.share, found.n) == (0.01, 2000)
