import numpy as np
import pytest
from onnx import helper

from optimize.errors import CandidateError
from optimize.recipes import histograms, ranges
from optimize.recipes.ranges import Range
from tests.optimize.recipes.models import save, weight


@pytest.fixture
def source(tmp_path):
    return save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        {"x": ["batch", "sequence", 4]},
        {"y": ["batch", "sequence", 8]},
        [weight("w", 4, 8)],
    )


RNG = np.random.default_rng(2)
BATCHES = [{"x": RNG.normal(size=shape).astype(np.float32)} for shape in ((3, 5, 4), (40, 1, 4), (2, 9, 4))]


def test_batches_of_different_shapes_add_up(source):
    found = ranges.minmax(source, ["x", "y"], BATCHES)
    every = np.concatenate([batch["x"].ravel() for batch in BATCHES])
    assert found["x"] == pytest.approx((every.min(), every.max()))
    assert found["y"].low == 0.0
    collected = histograms.collect(source, found, BATCHES)
    wanted, _ = np.histogram(every, histograms.BINS, (every.min(), every.max()))
    assert collected["x"].counts.sum() == every.size
    # A value within rounding of a bin's edge may fall on its other side.
    assert np.abs(np.cumsum(collected["x"].counts) - np.cumsum(wanted)).max() <= 2
    assert collected["y"].counts.sum() == 2 * every.size


def test_fetched_values_are_bounded(source, monkeypatch):
    fetched = []
    original = ranges.run

    def watched(session, outputs, batch):
        values = original(session, outputs, batch)
        fetched.append(sum(value.nbytes for value in values))
        return values

    monkeypatch.setattr(ranges, "run", watched)
    limit = 40 * 8 * 4
    histograms.collect(source, {"x": Range(-5, 5), "h": Range(-9, 9), "y": Range(0, 9)}, BATCHES, limit_bytes=limit)
    assert max(fetched) <= limit
    assert len(fetched) == 1 + 3 * len(BATCHES)


def test_groups_hold_as_much_as_fits():
    elements = {"a": 3, "b": 3, "c": 9, "d": 1, "e": 2}
    assert list(histograms.groups(elements, 6)) == [["a", "b"], ["c"], ["d", "e"]]
    assert list(histograms.groups({}, 6)) == []


def test_a_nan_is_named(source):
    batch = {"x": np.full((2, 2, 4), np.inf, np.float32)}
    batch["x"][0, 0, 0] = -np.inf
    with pytest.raises(CandidateError, match="'h' is NaN on a calibration sample"):
        ranges.minmax(source, ["h"], [batch])


def test_infinity_counts_unless_finite_values_are_requested(source):
    batch = {"x": np.array([[[np.inf, 1, -2, 3]]], np.float32)}
    assert ranges.minmax(source, ["x"], [batch])["x"] == Range(-2.0, np.inf)
    assert ranges.minmax(source, ["x"], [batch], finite=True)["x"] == Range(-2.0, 3.0)
