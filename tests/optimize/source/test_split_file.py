from pathlib import Path

import numpy as np
import pytest

from optimize.source.samples import Batch
from optimize.source.split_file import read_split, store_split
from tests.optimize.source.batches import batch, values


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
    store_split(tmp_path / "split.npz", [item, item])
    for found in read_split(tmp_path / "split.npz"):
        assert found.inputs.keys() == item.inputs.keys()
        for name, value in item.inputs.items():
            assert found.inputs[name].dtype == value.dtype
            np.testing.assert_array_equal(found.inputs[name], value)
        np.testing.assert_array_equal(found.labels, item.labels)


def test_order_of_more_than_ten_batches_stays(tmp_path: Path) -> None:
    items = [Batch({"x": np.array([index])}, np.array([index])) for index in range(12)]
    store_split(tmp_path / "split.npz", items)
    assert [int(item.labels[0]) for item in read_split(tmp_path / "split.npz")] == list(range(12))
