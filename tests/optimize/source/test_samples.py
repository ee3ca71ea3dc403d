from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from optimize.errors import SourceError, UserError
from optimize.manifest import Signature, TensorSpec
from optimize.source import samples
from optimize.source.samples import SPLITS, Batch

X = Signature((TensorSpec("x", "float32", ("batch", 4)),), ())
LAST = Signature((TensorSpec("x", "float32", (4, "batch")),), ())
ALONE = Signature((TensorSpec("x", "float32", (4,)),), ())
MIXED = Signature((*X.inputs, TensorSpec("scale", "float32", ())), ())


def values(rows: int = 1000, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def batch(rows: int, labels: Any = None, seed: int = 0) -> Batch:
    return Batch({"x": values(rows, seed=seed)}, labels)


# A callable's samples.


def test_samples_of_a_callable_keep_their_batches() -> None:
    def produce(split: str) -> Any:
        yield {"x": values(3)}, [0, 1, 2]
        yield {"x": values(2)}, None

    first, second = samples.collect(produce, "selection", "m.py:samples")
    assert (first.inputs["x"].shape, list(first.labels)) == ((3, 4), [0, 1, 2])
    assert (second.inputs["x"].shape, second.labels) == ((2, 4), None)


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([], "gave no sample; wanted at least one (inputs, labels) pair"),
        ([[{"x": [1]}, [0]]], "item 0 is list; wanted a pair"),
        ([({"x": [1]}, [0], 3)], "item 0 is tuple; wanted a pair"),
        ([({"x": [[1]]}, [0]), ([1], [0])], "item 1 is tuple; wanted a pair"),
        ([({"x": [object()]}, [0])], "item 0: input 'x' holds Python objects"),
        ([({"x": [b"\xff\x00"]}, [0])], "item 0: input 'x' holds bytes that are no UTF-8 text"),
        ([({"x": [[1], [1, 2]]}, [0, 1])], "item 0: input 'x' has rows of different shapes"),
        ([({"x": [1]}, [[0], [1, 2]])], "item 0: the label column has rows of different shapes"),
        ([({"x": [1]}, 3)], "item 0: labels are a single value; wanted one entry a row"),
        (None, "failed: TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_callable_that_gives_something_else_is_told(items: Any, told: str) -> None:
    with pytest.raises(SourceError) as caught:
        samples.collect(lambda _: items, "selection", "m.py:samples")
    assert str(caught.value).startswith("m.py:samples('selection')")
    assert told in str(caught.value)


def test_bytes_are_text(tmp_path: Path) -> None:
    mixed = np.array([b"caf\xc3\xa9", "tea"], dtype=object)
    for column in (mixed, np.array([b"caf\xc3\xa9", b"tea"])):
        (batch,) = samples.collect(lambda _, x=column: [({"x": x}, None)], "selection", "my.py:samples")
        samples.store(tmp_path / "split.npz", [batch])
        assert samples.read(tmp_path / "split.npz")[0].inputs["x"].tolist() == ["café", "tea"]


def test_callable_that_fails_is_told_and_its_own_user_error_passes() -> None:
    def fails(split: str) -> Any:
        raise KeyError(split)

    def asks(split: str) -> Any:
        raise UserError("download the data first")

    with pytest.raises(SourceError, match=r"m\.py:samples\('selection'\) failed: KeyError: 'selection'"):
        samples.collect(fails, "selection", "m.py:samples")
    with pytest.raises(UserError, match=r"^download the data first$"):
        samples.collect(asks, "selection", "m.py:samples")


# A file's samples.


def write_npz(path: Path, **columns: Any) -> Path:
    np.savez(path, **columns)
    return path


def write_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def rows_of(batches: list[Batch], name: str = "x") -> np.ndarray:
    return np.concatenate([item.inputs[name] for item in batches])


def test_file_is_split_10_45_45_without_losing_a_row(tmp_path: Path) -> None:
    x = values(4000)
    found = samples.from_file(write_npz(tmp_path / "data.npz", x=x, label=np.arange(4000)), X)
    shares = {split: sum(len(item.labels) for item in found[split]) / 4000 for split in SPLITS}
    # Six standard deviations of a binomial share.
    assert shares == pytest.approx({"calibration": 0.10, "selection": 0.45, "confirmation": 0.45}, abs=0.05)
    labels = np.concatenate([item.labels for split in SPLITS for item in found[split]])
    assert sorted(labels) == list(range(4000))
    np.testing.assert_array_equal(np.concatenate([rows_of(found[split]) for split in SPLITS]), x[labels])
    samples.check_disjoint(X, found)


def test_bytes_of_a_file_are_text(tmp_path: Path) -> None:
    texts = [f"café {row}" for row in range(200)]
    signature = Signature((TensorSpec("x", "object", ("batch",)),), ())
    bytes_of = [text.encode() for text in texts]
    for path in (write_npz(tmp_path / "data.npz", x=bytes_of), write_parquet(tmp_path / "data.parquet", x=bytes_of)):
        found = samples.from_file(path, signature)
        samples.store(tmp_path / "split.npz", found["selection"])
        (batch,) = samples.read(tmp_path / "split.npz")
        assert set(batch.inputs["x"]) <= set(texts)


def test_split_of_a_row_depends_on_its_inputs_alone(tmp_path: Path) -> None:
    x = values()
    order = np.random.default_rng(1).permutation(1000)
    before = samples.from_file(write_npz(tmp_path / "a.npz", x=x, label=np.zeros(1000)), X)
    after = samples.from_file(write_npz(tmp_path / "b.npz", label=np.ones(900), x=x[order][:900]), X)
    for split in SPLITS:
        old = {row.tobytes() for row in rows_of(before[split])}
        assert {row.tobytes() for row in rows_of(after[split])} <= old


@pytest.mark.parametrize("kind", [int, str])
def test_each_label_has_the_shares_of_the_whole(tmp_path: Path, kind: type) -> None:
    labels = np.array([kind(label) for label in np.repeat([0, 1, 2], [9000, 2600, 400])])
    found = samples.from_file(write_npz(tmp_path / "data.npz", x=values(12_000), label=labels), X)
    for label, count in ((0, 9000), (1, 2600), (2, 400)):
        for split, share in (("calibration", 0.10), ("selection", 0.45), ("confirmation", 0.45)):
            there = sum(int((item.labels == kind(label)).sum()) for item in found[split])
            # Five standard deviations of a binomial share.
            assert abs(there / count - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_common_label_that_a_judged_split_would_never_see_is_refused(tmp_path: Path) -> None:
    x, labels = values(4000), np.zeros(4000, int)
    x[:40], labels[:40] = 7.0, 1  # one row forty times over
    told = r"none of the 40 rows with label 1 falls into (selection|confirmation); equal rows stay together"
    with pytest.raises(SourceError, match=told):
        samples.from_file(write_npz(tmp_path / "data.npz", x=x, label=labels), X)
    x[0] = (
        8.0  # 39 equal rows and another: still so, unless that one happens to fall into the split that lacks the label
    )
    labels[0] = 0
    found = samples.from_file(write_npz(tmp_path / "data.npz", x=x, label=labels), X)
    assert sum(int((item.labels == 1).sum()) for split in SPLITS for item in found[split]) == 39


def test_labels_that_are_no_classes_are_free(tmp_path: Path) -> None:
    x = np.zeros((4000, *values(1).shape[1:]), np.float32)
    x[40:] = values(3960)
    labels = np.arange(4000, dtype=np.float32)
    labels[:40] = 0.5
    assert samples.from_file(write_npz(tmp_path / "data.npz", x=x, label=labels), X)


def test_equal_rows_never_part(tmp_path: Path) -> None:
    x = np.repeat(values(200), 5, axis=0)
    samples.check_disjoint(X, samples.from_file(write_npz(tmp_path / "data.npz", x=x), X))


def test_file_without_labels_has_none(tmp_path: Path) -> None:
    found = samples.from_file(write_npz(tmp_path / "data.npz", x=values()), X)
    assert all(item.labels is None for split in SPLITS for item in found[split])


def test_rows_go_where_the_model_has_its_batch_axis(tmp_path: Path) -> None:
    x = values()
    found = samples.from_file(write_npz(tmp_path / "data.npz", x=x), LAST)
    first = samples.from_file(write_npz(tmp_path / "data.npz", x=x), X)
    for split in SPLITS:
        np.testing.assert_array_equal(found[split][0].inputs["x"], first[split][0].inputs["x"].T)


@pytest.mark.parametrize(("signature", "shape"), [(ALONE, (4,)), (MIXED, (1, 4))])
def test_rows_that_cannot_share_a_batch_are_requests_of_their_own(
    tmp_path: Path, signature: Signature, shape: tuple[int, ...]
) -> None:
    columns = {"x": values(100), "scale": np.arange(100, dtype=np.float32), "label": np.arange(100)}
    if signature is ALONE:
        del columns["scale"]
    found = samples.from_file(write_npz(tmp_path / "data.npz", **columns), signature)
    items = [item for split in SPLITS for item in found[split]]
    assert len(items) == 100
    for item in items:
        (label,) = item.labels
        assert item.inputs["x"].shape == shape
        np.testing.assert_array_equal(item.inputs["x"].ravel(), columns["x"][label])
        if signature is MIXED:
            assert (item.inputs["scale"].shape, item.inputs["scale"]) == ((), label)


@pytest.mark.parametrize(
    ("column", "dtype", "shape"),
    [
        (pa.array(np.arange(300, dtype=np.float32)), "float32", ()),
        (pa.array(np.arange(300, dtype=np.int32)), "int32", ()),
        (pa.array([bool(i % 3) for i in range(300)]), "bool", ()),
        (pa.array([[float(i), 1.0] for i in range(300)], pa.list_(pa.float32())), "float32", (2,)),
        (pa.array([[i, i, 1] for i in range(300)], pa.list_(pa.uint16(), 3)), "uint16", (3,)),
        (pa.array([[[i], [2]] for i in range(300)], pa.large_list(pa.list_(pa.int64()))), "int64", (2, 1)),
        (pa.array([f"text {i}" for i in range(300)]), "object", ()),
        (pa.array([f"text {i}" for i in range(300)]).dictionary_encode(), "object", ()),
    ],
)
def test_parquet_columns_keep_their_dtype_and_shape(
    tmp_path: Path, column: pa.Array, dtype: str, shape: tuple[int, ...]
) -> None:
    path = write_parquet(tmp_path / "data.parquet", x=column, row=np.arange(300), label=np.arange(300) % 7)
    found = samples.from_file(path, Signature((), ()))
    for split in SPLITS:
        (item,) = found[split]
        x, row = item.inputs["x"], item.inputs["row"]
        assert (x.dtype, x.shape[1:]) == (np.dtype(dtype), shape)
        assert x.tolist() == [column[int(index)].as_py() for index in row]
        np.testing.assert_array_equal(item.labels, row % 7)


def test_npz_and_parquet_of_the_same_rows_split_alike(tmp_path: Path) -> None:
    x = values(500)
    one = samples.from_file(write_npz(tmp_path / "data.npz", x=x), X)
    two = samples.from_file(write_parquet(tmp_path / "data.parquet", x=list(x)), X)
    assert samples.digest(one) == samples.digest(two)


@pytest.mark.parametrize(
    ("name", "columns", "told"),
    [
        ("data.npz", {"x": values(10), "label": np.zeros(9)}, "columns have {'x': 10, 'label': 9} rows; wanted one column"),
        ("data.npz", {"x": np.float32(1)}, "columns have {'x': 0} rows"),
        ("data.npz", {"label": np.zeros(9)}, "columns have {'label': 9} rows"),
        ("data.npz", {"x": values(2)}, "no row of its 2 falls into"),
        ("data.npz", {"x": values(0)}, "columns have {'x': 0} rows"),
        ("data.parquet", {"x": [[1], [1, 2]]}, "column 'x' has rows of different shapes; wanted one shape, or a callable"),
        ("data.parquet", {"x": [1, None, 3]}, "column 'x' holds 1 nulls; wanted a value in every row"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_are_told(tmp_path: Path, name: str, columns: Any, told: str) -> None:
    path = (write_npz if name.endswith("npz") else write_parquet)(tmp_path / name, **columns)
    with pytest.raises(SourceError) as caught:
        samples.from_file(path, X)
    assert str(caught.value).startswith(f"{path}: {told}")


@pytest.mark.parametrize("name", ["data.npz", "data.parquet"])
def test_missing_and_damaged_files_are_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(SourceError, match="no such file; `data` is relative to the budgets file"):
        samples.from_file(path, X)
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(SourceError, match=f"cannot be read as {name.split('.')[1]}: "):
        samples.from_file(path, X)


# Checks.


@pytest.mark.parametrize(
    ("signature", "item", "needed", "told"),
    [
        (X, batch(3, np.zeros(2)), False, "selection, item 1: 2 labels for 3 rows; wanted one label a row"),
        (X, batch(3, np.zeros((4, 3))), False, "4 labels for 3 rows"),
        (LAST, Batch({"x": values(3).T}, np.zeros(4)), False, "4 labels for 3 rows"),
        (ALONE, Batch({"x": values(1)[0]}, np.zeros(4)), False, "no input has an axis named `batch`: declare"),
        (X, batch(3), True, "selection, item 1: has no labels, which accuracy.max_drop needs"),
    ],
)
def test_labels_that_do_not_fit_the_rows_are_told(signature: Signature, item: Batch, needed: bool, told: str) -> None:
    fits = Batch(item.inputs, np.zeros(samples.row_count(signature, item.inputs)))
    with pytest.raises(SourceError) as caught:
        samples.check_labels([fits, item], signature, "selection", needed=needed)
    assert told in str(caught.value)


def test_labels_of_any_further_shape_and_missing_ones_are_fine() -> None:
    items = [batch(3, np.zeros((3, 5))), batch(2)]
    samples.check_labels(items, X, "selection", needed=False)


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
        samples.check_disjoint(X, splits)


def test_same_text_in_another_width_is_an_overlap() -> None:
    signature = Signature((TensorSpec("text", "object", ("batch",)),), ())
    splits = {
        "selection": [Batch({"text": np.array(["a", "b"])}, None)],
        "confirmation": [Batch({"text": np.array(["b", "longer"], dtype=object)}, None)],
    }
    with pytest.raises(SourceError, match="share 1 samples"):
        samples.check_disjoint(signature, splits)


def test_rows_differ_where_an_input_without_batch_axis_does() -> None:
    splits = {split: [Batch({"x": values(3), "scale": np.float32(index)}, None)] for index, split in enumerate(SPLITS)}
    samples.check_disjoint(MIXED, splits)


# Storing.


@pytest.mark.parametrize(
    "item",
    [
        batch(3, np.array([1, 2, 3])),
        batch(3),
        Batch({"x": np.array(["a", "längst", ""], dtype=object)}, np.array(["yes", "no", "yes"])),
        Batch({"x": np.float32(3.5), "flag": np.array(True)}, np.array([1.5])),
        Batch({"a/b": values(2), "": values(2)}, np.zeros((2, 3, 1))),
    ],
)
def test_stored_samples_come_back(tmp_path: Path, item: Batch) -> None:
    samples.store(tmp_path / "split.npz", [item, item])
    for found in samples.read(tmp_path / "split.npz"):
        assert found.inputs.keys() == item.inputs.keys()
        for name, value in item.inputs.items():
            assert found.inputs[name].dtype == value.dtype
            np.testing.assert_array_equal(found.inputs[name], value)
        np.testing.assert_array_equal(found.labels, item.labels)


def test_order_of_more_than_ten_batches_stays(tmp_path: Path) -> None:
    items = [Batch({"x": np.array([index])}, np.array([index])) for index in range(12)]
    samples.store(tmp_path / "split.npz", items)
    assert [int(item.labels[0]) for item in samples.read(tmp_path / "split.npz")] == list(range(12))


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
    before = samples.digest({"selection": [item]})
    assert samples.digest({"selection": [batch(3, np.arange(3))]}) == before
    assert samples.digest({"selection": [change(item)]}) != before
    assert samples.digest({"confirmation": [item]}) != before


# Rows and subsets.


@given(arrays.arrays(np.int8, st.tuples(st.integers(1, 6), st.just(4))))
def test_rows_of_a_batch_are_its_rows(x: np.ndarray) -> None:
    for signature, value in ((X, x), (LAST, x.T)):
        found = list(samples.rows(signature, Batch({"x": value}, x[:, 0])))
        assert len(found) == samples.row_count(signature, {"x": value}) == len(x)
        assert [inputs["x"].ravel().tolist() for inputs, _ in found] == x.tolist()
        assert [label for _, label in found] == x[:, 0].tolist()


@pytest.mark.parametrize("kind", [np.int64, str, object])
def test_subset_keeps_each_labels_share(kind: type) -> None:
    labels = np.random.default_rng(0).choice(4, 2000, p=[0.7, 0.2, 0.08, 0.02]).astype(str).astype(kind)
    items = [batch(500, labels[start : start + 500], seed=start) for start in range(0, 2000, 500)]
    kept = samples.subset(X, items, 250, seed=1)
    found = Counter(np.concatenate([item.labels for item in kept]).tolist())
    assert sum(found.values()) == 250
    for label, count in Counter(labels.tolist()).items():
        assert abs(found[label] - count / 8) <= 1


def test_subset_keeps_rows_and_labels_together_and_repeats_itself() -> None:
    x = values(300)
    items = [Batch({"x": x[start : start + 100].T}, np.arange(start, start + 100) % 3) for start in (0, 100, 200)]
    kept = samples.subset(LAST, items, 50, seed=1)
    again = samples.subset(LAST, items, 50, seed=1)
    assert samples.digest({"selection": kept}) == samples.digest({"selection": again})
    original = {row.tobytes(): index % 3 for index, row in enumerate(x)}
    for item in kept:
        assert [original[row.tobytes()] for row in item.inputs["x"].T.copy()] == item.labels.tolist()


@pytest.mark.parametrize("labels", [None, np.linspace(0, 1, 300), np.zeros((300, 2))])
def test_subset_without_discrete_labels_is_random(labels: Any) -> None:
    kept = samples.subset(X, [batch(300, labels)], 40, seed=1)
    assert samples.row_count(X, kept[0].inputs) == 40


def test_subset_of_few_rows_is_all_of_them() -> None:
    items = [batch(30, np.arange(30)), batch(5, np.arange(5))]
    assert samples.digest({"selection": samples.subset(X, items, 256, seed=1)}) == samples.digest({"selection": items})
