import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.statistics.quantile import named, quantile, rank

latencies = st.lists(st.integers(0, 20).map(float), min_size=1, max_size=300).map(np.array)


@given(latencies, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_it_is_the_inverted_distribution(values, percentile):
    assert quantile(values, percentile) == np.quantile(values, percentile, method="inverted_cdf")


@given(latencies, st.sampled_from([0.5, 0.95, 0.99]), st.integers(-1, 21).map(float))
def test_the_percentile_is_over_a_limit_exactly_when_too_many_calls_are(values, percentile, limit):
    too_many = np.count_nonzero(values > limit) > len(values) - rank(len(values), percentile)
    assert (quantile(values, percentile) > limit) == too_many


@pytest.mark.parametrize(("percentile", "per_mille"), [(0.5, 500), (0.95, 950), (0.99, 990), (0.999, 999)])
def test_binary_fractions_shift_no_rank(percentile, per_mille):
    assert all(rank(n, percentile) == -(-n * per_mille // 1000) for n in range(1, 20_001))


def test_a_failed_call_is_the_slowest():
    assert quantile(np.array([1.0, np.inf, 2.0]), 0.5) == 2.0
    assert quantile(np.array([1.0, np.inf, 2.0]), 0.99) == np.inf


def test_no_values_and_no_numbers_are_refused():
    with pytest.raises(ValueError, match="no values"):
        quantile(np.array([]), 0.5)
    with pytest.raises(ValueError, match="counts as infinity"):
        quantile(np.array([1.0, np.nan]), 0.5)


def test_names():
    assert [named(p) for p in (0.5, 0.99, 0.999)] == ["p50", "p99", "p99.9"]
