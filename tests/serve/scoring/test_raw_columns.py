import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optimize.arrays import Arrays
from optimize.errors import InputError, SourceError
from optimize.manifest import Signature, TensorSpec
from serve.scoring import raw_columns
from serve.scoring.columns import Column, decode
from tests import preprocessing

TEXT = TensorSpec("text", "object", ("batch",))
PAIR = TensorSpec("pair", "int64", ("batch", 2))
IDS = TensorSpec("ids", "int64", ("batch", "length"), pad=0)
SCALE = TensorSpec("scale", "float32", ())


def texts(*values: str) -> dict[str, Column]:
    return {"text": decode(pa.array(values), TEXT, 0)}


def letters(columns: Arrays) -> Arrays:
    """Each text's letters as numbers, filled up to the longest."""
    width = max(map(len, columns["text"]))
    ids = np.array([[ord(letter) for letter in text.ljust(width, "\0")] for text in columns["text"]], np.int64)
    return {"ids": ids, "scale": np.float32(len(columns["text"]))}


def test_rows_that_may_be_padded_keep_their_own_size() -> None:
    found = raw_columns.prepared(
        texts("abc", "d", "ef"), [TEXT], Signature((IDS,), ()), lambda c: {"ids": letters(c)["ids"]}, 0
    )
    assert found["ids"].shapes.tolist() == [[3], [1], [2]]
    assert [found["ids"].flat(row).tolist() for row in range(3)] == [[97, 98, 99], [100], [101, 102]]


def test_other_rows_are_preprocessed_together() -> None:
    whole = TensorSpec("ids", "int64", ("batch", "length"))
    given = texts(*["ab"] * raw_columns.ROWS_PER_CALL, "c")
    found = raw_columns.prepared(given, [TEXT], Signature((whole, SCALE), ()), letters, 0)
    assert found["ids"].shapes.ravel().tolist() == [2] * raw_columns.ROWS_PER_CALL + [1]
    assert found["scale"].values.tolist() == [raw_columns.ROWS_PER_CALL] * raw_columns.ROWS_PER_CALL + [1]
    assert found["scale"].shapes.shape == (raw_columns.ROWS_PER_CALL + 1, 0)


def test_no_rows_make_empty_columns() -> None:
    found = raw_columns.prepared(
        {"text": decode(pa.array([], pa.string()), TEXT, 0)}, [TEXT], Signature((IDS,), ()), letters, 0
    )
    assert (found["ids"].values.dtype, found["ids"].shapes.shape) == (np.int64, (0, 1))


def failing(_: Arrays) -> Arrays:
    raise SourceError("text.py:letters failed on columns ['text']: ValueError: no such letter")


@pytest.mark.parametrize(
    ("preprocess", "cause"),
    [
        (failing, r"rows 71 to 71: text.py:letters failed .* no such letter"),
        (lambda _: {"tokens": np.zeros((1, 1))}, r"rows 71 to 71: preprocess gave \['tokens'\]; wanted \['ids'\]"),
        (lambda _: {"ids": np.zeros((3, 1), np.int64)}, r"rows 71 to 71: preprocess made 3 rows of 'ids'; wanted 1"),
    ],
)
def test_a_failure_names_the_rows(preprocess, cause) -> None:
    with pytest.raises(InputError, match=cause):
        raw_columns.prepared(texts("a"), [TEXT], Signature((IDS,), ()), preprocess, 71)


def test_a_row_of_another_shape_is_named() -> None:
    given = {"pair": decode(pa.array([[1, 2], [3, 4, 5]]), TensorSpec("pair", "int64", ("batch", "n")), 0)}
    with pytest.raises(InputError, match=r"row 6: column 'pair' has shape \[3\]; wanted \[2\]"):
        raw_columns.prepared(given, [PAIR], Signature((IDS,), ()), letters, 5)


def score(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from optimize.cli import main; main()", "score", "counts"]
    paths = ["--input", "in.parquet", "--output", "out", "--registry", "registry", *options]
    return subprocess.run([*command, *paths], cwd=folder, capture_output=True, text=True, timeout=180, check=False)


def test_a_file_of_raw_columns_is_scored(tmp_path: Path) -> None:
    preprocessing.publish(tmp_path / "registry", "counts", 2.0, tmp_path)
    values = [f"row {index} of many" for index in range(70)]
    pq.write_table(pa.table({"text": values, "other": range(70)}), tmp_path / "in.parquet", row_group_size=40)
    ended = score(tmp_path, "--workers", "1")
    assert ended.returncode == 0, ended.stderr
    found = pq.read_table(tmp_path / "out").to_pydict()
    assert found["row"] == list(range(70))
    assert found["y"] == [[2 * item for item in preprocessing.counted(text)] for text in values]


def test_a_file_without_either_kind_of_columns_is_refused(tmp_path: Path) -> None:
    preprocessing.publish(tmp_path / "registry", "counts", 2.0, tmp_path)
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "in.parquet")
    ended = score(tmp_path)
    assert ended.returncode == 2
    assert "has no column 'x' (columns: words); the model wants x, or text before preprocessing: rename" in ended.stderr
