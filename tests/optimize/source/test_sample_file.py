from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optimize.errors import SourceError
from optimize.manifest import Signature, TensorSpec
from optimize.source.sample_file import splits_from_file
from optimize.source.samples import (
    SPLITS,
    Batch,
    check_disjoint,
    digest_splits,
)
from optimize.source.split_file import read_split, store_split
from tests.optimize.source.batches import ALONE, LAST, MIXED, X, values


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
    found = splits_from_file(write_npz(tmp_path / "data.npz", x=x, label=np.arange(4000)), X)
    shares = {split: sum(len(item.labels) for item in found[split]) / 4000 for split in SPLITS}
    # Six standard deviations of a binomial share.
    assert shares == pytest.approx({"calibration": 0.10, "selection": 0.45, "confirmation": 0.45}, abs=0.05)
    labels = np.concatenate([item.labels for split in SPLITS for item in found[split]])
    assert sorted(labels) == list(range(4000))
    np.testing.assert_array_equal(np.concatenate([rows_of(found[split]) for split in SPLITS]), x[labels])
    check_disjoint(X, found)


def test_bytes_of_a_file_are_text(tmp_path: Path) -> None:
    texts = [f"café {row}" for row in range(200)]
    signature = Signature((TensorSpec("x", "object", ("batch",)),), ())
    bytes_of = [text.encode() for text in texts]
    for path in (write_npz(tmp_path / "data.npz", x=bytes_of), write_parquet(tmp_path / "data.parquet", x=bytes_of)):
        found = splits_from_file(path, signature)
        store_split(tmp_path / "split.npz", found["selection"])
        (batch,) = read_split(tmp_path / "split.npz")
        assert set(batch.inputs["x"]) <= set(texts)


def test_split_of_a_row_depends_on_its_inputs_alone(tmp_path: Path) -> None:
    x = values()
    order = np.random.default_rng(1).permutation(1000)
    before = splits_from_file(write_npz(tmp_path / "a.npz", x=x, label=np.zeros(1000)), X)
    after = splits_from_file(write_npz(tmp_path / "b.npz", label=np.ones(900), x=x[order][:900]), X)
    for split in SPLITS:
        old = {row.tobytes() for row in rows_of(before[split])}
        assert {row.tobytes() for row in rows_of(after[split])} <= old


@pytest.mark.parametrize("kind", [int, str])
def test_each_label_has_the_shares_of_the_whole(tmp_path: Path, kind: type) -> None:
    labels = np.array([kind(label) for label in np.repeat([0, 1, 2], [9000, 2600, 400])])
    found = splits_from_file(write_npz(tmp_path / "data.npz", x=values(12_000), label=labels), X)
    for label, count in ((0, 9000), (1, 2600), (2, 400)):
        for split, share in (("calibration", 0.10), ("selection", 0.45), ("confirmation", 0.45)):
            there = sum(int((item.labels == kind(label)).sum()) for item in found[split])
            # Five standard deviations of a binomial share.
            assert abs(there / count - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_common_label_that_a_judged_split_would_never_see_is_refused(tmp_path: Path) -> None:
    x, labels = values(4000), np.zeros(4000, int)
    x[:40], labels[:40] = 7.0, 1  # one row forty times over
    message = r"none of the 40 rows with label 1 falls into (selection|confirmation); equal rows stay together"
    with pytest.raises(SourceError, match=message):
        splits_from_file(write_npz(tmp_path / "data.npz", x=x, label=labels), X)
    x[0] = (
        8.0  # 39 equal rows and another: still so, unless that one happens to fall into the split that lacks the label
    )
    labels[0] = 0
    found = splits_from_file(write_npz(tmp_path / "data.npz", x=x, label=labels), X)
    assert sum(int((item.labels == 1).sum()) for split in SPLITS for item in found[split]) == 39


def test_labels_that_are_no_classes_are_free(tmp_path: Path) -> None:
    x = np.zeros((4000, *values(1).shape[1:]), np.float32)
    x[40:] = values(3960)
    labels = np.arange(4000, dtype=np.float32)
    labels[:40] = 0.5
    assert splits_from_file(write_npz(tmp_path / "data.npz", x=x, label=labels), X)


def test_equal_rows_never_part(tmp_path: Path) -> None:
    x = np.repeat(values(200), 5, axis=0)
    check_disjoint(X, splits_from_file(write_npz(tmp_path / "data.npz", x=x), X))


def test_file_without_labels_has_none(tmp_path: Path) -> None:
    found = splits_from_file(write_npz(tmp_path / "data.npz", x=values()), X)
    assert all(item.labels is None for split in SPLITS for item in found[split])


def test_rows_go_where_the_model_has_its_batch_axis(tmp_path: Path) -> None:
    x = values()
    found = splits_from_file(write_npz(tmp_path / "data.npz", x=x), LAST)
    first = splits_from_file(write_npz(tmp_path / "data.npz", x=x), X)
    for split in SPLITS:
        np.testing.assert_array_equal(found[split][0].inputs["x"], first[split][0].inputs["x"].T)


@pytest.mark.parametrize(("signature", "shape"), [(ALONE, (4,)), (MIXED, (1, 4))])
def test_rows_that_cannot_share_a_batch_are_requests_of_their_own(
    tmp_path: Path, signature: Signature, shape: tuple[int, ...]
) -> None:
    columns = {"x": values(100), "scale": np.arange(100, dtype=np.float32), "label": np.arange(100)}
    if signature is ALONE:
        del columns["scale"]
    found = splits_from_file(write_npz(tmp_path / "data.npz", **columns), signature)
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
    found = splits_from_file(path, Signature((), ()))
    for split in SPLITS:
        (item,) = found[split]
        x, row = item.inputs["x"], item.inputs["row"]
        assert (x.dtype, x.shape[1:]) == (np.dtype(dtype), shape)
        assert x.tolist() == [column[int(index)].as_py() for index in row]
        np.testing.assert_array_equal(item.labels, row % 7)


def test_npz_and_parquet_of_the_same_rows_split_the_same(tmp_path: Path) -> None:
    x = values(500)
    one = splits_from_file(write_npz(tmp_path / "data.npz", x=x), X)
    two = splits_from_file(write_parquet(tmp_path / "data.parquet", x=list(x)), X)
    assert digest_splits(one) == digest_splits(two)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
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
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, name: str, columns: Any, message: str) -> None:
    path = (write_npz if name.endswith("npz") else write_parquet)(tmp_path / name, **columns)
    with pytest.raises(SourceError) as caught:
        splits_from_file(path, X)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("name", ["data.npz", "data.parquet"])
def test_missing_and_damaged_files_are_reported(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(SourceError, match="no such file; `data` is relative to the budgets file"):
        splits_from_file(path, X)
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(SourceError, match=f"cannot be read as {name.split('.')[1]}: "):
        splits_from_file(path, X)
