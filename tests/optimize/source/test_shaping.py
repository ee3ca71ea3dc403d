import numpy as np

from optimize.manifest import TensorSpec
from optimize.source.samples import Batch
from optimize.source.shaping import shaped
from tests.optimize.source.batches import values


def test_real_rows_are_cut_and_repeated() -> None:
    spec = TensorSpec("x", "float32", ("batch", 4))
    x = values(3)
    for rows in (1, 3, 8):
        found = shaped((spec,), [Batch({"x": x}, None)], {"batch": rows}, offset=1)["x"]
        np.testing.assert_array_equal(found, x[[(row + 1) % 3 for row in range(rows)]])


def test_inputs_of_one_request_come_from_one_batch() -> None:
    specs = (TensorSpec("image", "float32", ("batch", 4)), TensorSpec("scale", "float32", ()))
    batches = [
        Batch({"image": np.full((2, 4), i, np.float32), "scale": np.array(i, np.float32)}, None) for i in range(3)
    ]
    for offset in range(7):
        found = shaped(specs, batches, {"batch": 4}, offset)
        assert (found["image"] == found["scale"]).all()
        assert found["image"].shape == (4, 4)
