import numpy as np
import pytest
from scipy import stats

from optimize.recipes.clipping import Histogram, divergence, entropy, percentile
from optimize.recipes.histograms import BINS, binned
from optimize.recipes.ranges import Range


def histogram(values: np.ndarray) -> Histogram:
    found = Range(min(float(values.min()), 0.0), max(float(values.max()), 0.0))
    return Histogram(binned(values, found), *found)


RNG = np.random.default_rng(11)
NORMAL = RNG.normal(size=400_000).astype(np.float32)


def test_percentiles_are_numpys_to_within_a_bin():
    found = percentile(histogram(NORMAL), 99.0)
    width = float(NORMAL.max() - NORMAL.min()) / BINS
    assert found.low == pytest.approx(np.quantile(NORMAL, 0.005), abs=width)
    assert found.high == pytest.approx(np.quantile(NORMAL, 0.995), abs=width)


def test_percentile_keeps_zero_and_at_100_everything():
    values = np.linspace(2.0, 3.0, 1000, dtype=np.float32)
    assert percentile(histogram(values), 99.0).low == 0.0
    whole = percentile(histogram(NORMAL), 100.0)
    assert whole == pytest.approx((NORMAL.min(), NORMAL.max()), rel=1e-6)
    assert percentile(Histogram(np.zeros(BINS, np.int64), 0.0, 0.0)) == Range(0.0, 0.0)


def test_entropy_clips_one_outlier_and_keeps_a_uniform_range():
    with_outlier = np.append(NORMAL, np.float32(100))
    assert 3 < entropy(histogram(with_outlier)).high < 15
    uniform = RNG.uniform(-1, 1, 400_000).astype(np.float32)
    assert entropy(histogram(uniform)) == pytest.approx((-1, 1), abs=0.01)


def test_zeros_of_a_relu_do_not_affect_entropy():
    positive = np.abs(np.append(NORMAL, np.float32(100)))
    rectified = np.append(positive, np.zeros(10_000_000, np.float32))
    assert entropy(histogram(rectified)) == entropy(histogram(positive))
    assert 3 < entropy(histogram(rectified)).high < 15


def test_entropy_of_nothing_but_zeros_is_the_whole_range():
    assert entropy(histogram(np.zeros(100, np.float32))) == Range(0.0, 0.0)


def test_divergence_is_the_relative_entropy_of_the_two_distributions():
    magnitudes = RNG.integers(1, 50, 512)
    bins = 256
    clipped = magnitudes[:bins].astype(float)
    rendered = np.repeat(clipped.reshape(128, 2).mean(axis=1), 2)
    clipped[-1] += magnitudes[bins:].sum()
    assert divergence(magnitudes, bins) == pytest.approx(stats.entropy(clipped, rendered))


def test_128_bins_render_exactly_unless_something_is_clipped():
    magnitudes = np.full(256, 3)
    assert divergence(magnitudes[:128], 128) == pytest.approx(0.0, abs=1e-12)
    assert divergence(magnitudes, 128) > 0.1
