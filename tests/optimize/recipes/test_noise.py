import numpy as np
import pytest
from sklearn.datasets import load_digits

from optimize.errors import CandidateError
from optimize.recipes import noise

RNG = np.random.default_rng(4)


@pytest.mark.parametrize(
    "values", [RNG.normal(3, 2, 20_000), RNG.random(20_000), RNG.standard_normal(200_000).astype(np.float32)]
)
def test_what_a_generator_drew_is_noise(values):
    assert noise.is_noise(values)


@pytest.mark.parametrize(
    "values",
    [
        load_digits().images[:300].ravel(),
        np.cumsum(RNG.normal(size=20_000)),
        np.convolve(RNG.normal(size=20_000), np.ones(20), "valid"),  # normal, but neighbours are correlated
        np.maximum(RNG.normal(size=20_000), 0),
        RNG.integers(0, 5, 20_000).astype(float),
        np.full(20_000, 7.0),
        RNG.normal(size=9_999),
    ],
)
def test_data_with_structure_or_too_little_of_it_is_not(values):
    assert not noise.is_noise(values)


def test_the_refusal_names_the_input():
    batches = [
        {"x": RNG.normal(size=(100, 64)).astype(np.float32), "ids": RNG.integers(0, 9, (100, 64))} for _ in range(3)
    ]
    with pytest.raises(CandidateError, match=r"calibration input 'x' looks like random noise; wanted real samples"):
        noise.refuse(batches)


def test_integers_and_structure_are_not_refused():
    grid = np.add.outer(np.linspace(0, 1, 400), np.linspace(0, 5, 64)).astype(np.float32)
    noise.refuse([{"x": grid, "ids": RNG.integers(0, 9, (400, 64))}])
