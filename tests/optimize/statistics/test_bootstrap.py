import time
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from optimize.statistics import bootstrap


def test_bounds_of_a_mean_are_the_textbooks_where_nothing_is_skewed():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = bootstrap.mean_bounds(values, 0.95, 0)
    margin = scipy.stats.t.ppf(0.95, 399) * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.1 * margin)


def test_bounds_reach_at_least_as_far_as_the_plain_percentiles():
    values = np.random.default_rng(2).lognormal(0, 1, 100)
    plain = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, method="percentile", n_resamples=9999, rng=np.random.default_rng(3)
    ).confidence_interval
    low, high = bootstrap.mean_bounds(values, 0.95, 0)
    assert low <= plain.low * 1.01
    assert high > plain.high * 1.02, "the skewness of the values must move the upper bound outwards"


def test_equal_values_have_no_spread():
    assert bootstrap.mean_bounds(np.full(50, 0.25), 0.95, 0) == (0.25, 0.25)


def test_few_values_that_differ_do_not_make_infinite_bounds():
    values = np.zeros(300)
    values[7] = 1.0
    low, high = bootstrap.mean_bounds(values, 0.95, 0)
    assert -0.01 < low <= 0.0
    assert 1 / 300 < high < 0.1


def test_a_seed_gives_the_same_bounds_again():
    values = np.random.default_rng(4).normal(size=100)
    assert bootstrap.mean_bounds(values, 0.95, 7) == bootstrap.mean_bounds(values, 0.95, 7)
    assert bootstrap.mean_bounds(values, 0.95, 7) != bootstrap.mean_bounds(values, 0.95, 8)


def test_memory_does_not_grow_with_the_samples():
    values = np.random.default_rng(5).normal(size=4_000)
    tracemalloc.start()
    bootstrap.mean_bounds(values, 0.95, 0)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 50e6, "10,000 resamples of these are 320 MB"


def test_bounds_of_skewed_resamples_are_the_wider_on_each_side():
    skewed = np.concatenate([np.linspace(-0.1, 0.0, 500), np.linspace(0.0, 0.5, 500)])
    low, high = bootstrap.wider_bounds(skewed, 0.0, 0.95)
    assert high == np.quantile(skewed, 0.95)
    assert low == -high, "reflected, since the percentile below is nearer"
    mirrored = bootstrap.wider_bounds(-skewed, 0.0, 0.95)
    assert mirrored == pytest.approx((low, high))


def test_a_slow_statistic_is_drawn_less_often():
    def slow(indices):
        time.sleep(0.011)
        calls.append(1)
        return float(indices.mean())

    calls = []
    bootstrap_draws, bootstrap.FEWER_DRAWS = bootstrap.FEWER_DRAWS, 5
    try:
        assert len(bootstrap.statistics(slow, 10, 0)) == 5
    finally:
        bootstrap.FEWER_DRAWS = bootstrap_draws
    assert len(bootstrap.statistics(lambda _: 0.0, 10, 0)) == bootstrap.DRAWS == 10_000
