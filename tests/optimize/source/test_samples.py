from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from optimize.errors import SourceError, UserError
from optimize.manifest import Signature, TensorSpec
from optimize.source.samples import (
    SPLITS,
    Batch,
    check_disjoint,
    check_labels,
    collect,
    digest_splits,
    each_row,
    row_count,
    subset,
)
from optimize.source.split_file import read_split, store_split
from tests.optimize.source.batches import ALONE, LAST, MIXED, X, batch, values

# A callable's samples.


def test_samples_of_a_callable_keep_their_batches() -> None:
    def produce(split: str) -> Any:
        yield {"x": values(3)}, [0, 1, 2]
        yield {"x": values(2)}, None

    first, second = collect(produce, "selection", "m.py:samples")
    assert (first.inputs["x"].shape, list(first.labels)) == ((3, 4), [0, 1, 2])
    assert (second.inputs["x"].shape, second.labels) == ((2, 4), None)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "gave no sample; wanted at least one (inputs, labels) pair"),
        ([[{"x": [1]}, [0]]], "item 0 is list; wanted a pair"),
        ([({"x": [1]}, [0], 3)], "item 0 is tuple; wanted a pair"),
        ([({"x": [[1]]}, [0]), ([1], [0])], "item 1 is tuple; wanted a pair"),
        ([({"x": [object()]}, [0])], "item 0: input 'x' holds Python objects"),
        ([({"x": [b"\xff\x00"]}, [0])], "item 0: input 'x' holds bytes that are not UTF-8 text"),
        ([({"x": [[1], [1, 2]]}, [0, 1])], "item 0: input 'x' has rows of different shapes"),
        ([({"x": [1]}, [[0], [1, 2]])], "item 0: the label column has rows of different shapes"),
        ([({"x": [1]}, 3)], "item 0: labels are a single value; wanted one entry per row"),
        (None, "failed: TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_callable_that_returns_something_else_is_refused(items: Any, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        collect(lambda _: items, "selection", "m.py:samples")
    assert str(caught.value).startswith("m.py:samples('selection')")
    assert message in str(caught.value)


def test_bytes_are_text(tmp_path: Path) -> None:
    mixed = np.array([b"caf\xc3\xa9", "tea"], dtype=object)
    for column in (mixed, np.array([b"caf\xc3\xa9", b"tea"])):
        (batch,) = collect(lambda _, x=column: [({"x": x}, None)], "selection", "my.py:samples")
        store_split(tmp_path / "split.npz", [batch])
        assert read_split(tmp_path / "split.npz")[0].inputs["x"].tolist() == ["café", "tea"]


def test_failure_of_a_callable_is_reported_and_its_own_user_error_passes() -> None:
    def fails(split: str) -> Any:
        raise KeyError(split)

    def asks(split: str) -> Any:
        raise UserError("download the data first")

    with pytest.raises(SourceError, match=r"m\.py:samples\('selection'\) failed: KeyError: 'selection'"):
        collect(fails, "selection", "m.py:samples")
    with pytest.raises(UserError, match=r"^download the data first$"):
        collect(asks, "selection", "m.py:samples")


# Checks.


@pytest.mark.parametrize(
    ("signature", "item", "needed", "message"),
    [
        (X, batch(3, np.zeros(2)), False, "selection, item 1: 2 labels for 3 rows; wanted one label per row"),
        (X, batch(3, np.zeros((4, 3))), False, "4 labels for 3 rows"),
        (LAST, Batch({"x": values(3).T}, np.zeros(4)), False, "4 labels for 3 rows"),
        (ALONE, Batch({"x": values(1)[0]}, np.zeros(4)), False, "no input has an axis named `batch`: declare"),
        (X, batch(3), True, "selection, item 1: has no labels, which accuracy.max_drop needs"),
    ],
)
def test_labels_that_do_not_fit_the_rows_are_refused(
    signature: Signature, item: Batch, needed: bool, message: str
) -> None:
    fits = Batch(item.inputs, np.zeros(row_count(signature, item.inputs)))
    with pytest.raises(SourceError) as caught:
        check_labels([fits, item], signature, "selection", needed=needed)
    assert message in str(caught.value)


def test_labels_of_any_further_shape_and_missing_ones_are_fine() -> None:
    items = [batch(3, np.zeros((3, 5))), batch(2)]
    check_labels(items, X, "selection", needed=False)


@pytest.mark.parametrize("cut", [1, 3, 50])
def test_overlap_is_refused_however_the_batches_are_cut(cut: int) -> None:
    x = values(100)
    shared = np.concatenate([values(60, seed=1), x[40:43]])
    splits = {
        "calibration": [Batch({"x": values(30, seed=2)}, None)],
        "selection": [Batch({"x": x[start : start + cut]}, None) for start in range(0, 100, cut)],
        "confirmation": [Batch({"x": shared}, None)],
    }
    with pytest.raises(SourceError, match="splits selection and confirmation share 3 samples; wanted disjoint splits"):
        check_disjoint(X, splits)


def test_same_text_in_another_width_is_an_overlap() -> None:
    signature = Signature((TensorSpec("text", "object", ("batch",)),), ())
    splits = {
        "selection": [Batch({"text": np.array(["a", "b"])}, None)],
        "confirmation": [Batch({"text": np.array(["b", "longer"], dtype=object)}, None)],
    }
    with pytest.raises(SourceError, match="share 1 samples"):
        check_disjoint(signature, splits)


def test_rows_differ_where_an_input_without_batch_axis_does() -> None:
    splits = {split: [Batch({"x": values(3), "scale": np.float32(index)}, None)] for index, split in enumerate(SPLITS)}
    check_disjoint(MIXED, splits)


@pytest.mark.parametrize(
    "change",
    [
        lambda item: Batch({"x": item.inputs["x"] + np.float32(1e-6)}, item.labels),
        lambda item: Batch({"y": item.inputs["x"]}, item.labels),
        lambda item: Batch(item.inputs, item.labels[::-1]),
        lambda item: Batch(item.inputs, None),
        lambda item: Batch({"x": item.inputs["x"].reshape(4, 3)}, item.labels),
    ],
)
def test_digest_shows_every_change(change: Any) -> None:
    item = batch(3, np.arange(3))
    before = digest_splits({"selection": [item]})
    assert digest_splits({"selection": [batch(3, np.arange(3))]}) == before
    assert digest_splits({"selection": [change(item)]}) != before
    assert digest_splits({"confirmation": [item]}) != before


# Rows and subsets.


@given(arrays.arrays(np.int8, st.tuples(st.integers(1, 6), st.just(4))))
def test_rows_of_a_batch_are_its_rows(x: np.ndarray) -> None:
    for signature, value in ((X, x), (LAST, x.T)):
        found = list(each_row(signature, Batch({"x": value}, x[:, 0])))
        assert len(found) == row_count(signature, {"x": value}) == len(x)
        assert [inputs["x"].ravel().tolist() for inputs, _ in found] == x.tolist()
        assert [label for _, label in found] == x[:, 0].tolist()


@pytest.mark.parametrize("kind", [np.int64, str, object])
def test_subset_keeps_each_labels_share(kind: type) -> None:
    labels = np.random.default_rng(0).choice(4, 2000, p=[0.7, 0.2, 0.08, 0.02]).astype(str).astype(kind)
    items = [batch(500, labels[start : start + 500], seed=start) for start in range(0, 2000, 500)]
    kept = subset(X, items, 250, seed=1)
    found = Counter(np.concatenate([item.labels for item in kept]).tolist())
    assert sum(found.values()) == 250
    for label, count in Counter(labels.tolist()).items():
        assert abs(found[label] - count / 8) <= 1


def test_subset_keeps_rows_and_labels_together_and_repeats_itself() -> None:
    x = values(300)
    items = [Batch({"x": x[start : start + 100].T}, np.arange(start, start + 100) % 3) for start in (0, 100, 200)]
    kept = subset(LAST, items, 50, seed=1)
    again = subset(LAST, items, 50, seed=1)
    assert digest_splits({"selection": kept}) == digest_splits({"selection": again})
    original = {row.tobytes(): index % 3 for index, row in enumerate(x)}
    for item in kept:
        assert [original[row.tobytes()] for row in item.inputs["x"].T.copy()] == item.labels.tolist()


@pytest.mark.parametrize("labels", [None, np.linspace(0, 1, 300), np.zeros((300, 2))])
def test_subset_without_discrete_labels_is_random(labels: Any) -> None:
    kept = subset(X, [batch(300, labels)], 40, seed=1)
    assert row_count(X, kept[0].inputs) == 40


def test_subset_of_few_rows_is_all_of_them() -> None:
    items = [batch(30, np.arange(30)), batch(5, np.arange(5))]
    assert digest_splits({"selection": subset(X, items, 256, seed=1)}) == digest_splits({"selection": items})
