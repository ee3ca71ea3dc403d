import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.runtime.batching.histogram import ROWS, SECONDS, Histogram


@given(st.lists(st.floats(0, 100)))
def test_every_observation_lies_below_its_bound_and_above_the_one_before(values):
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    assert histogram.count == len(values)
    assert histogram.total == pytest.approx(sum(values))
    for position, bound in enumerate(SECONDS):
        assert sum(histogram.counts[: position + 1]) == sum(value <= bound for value in values)


@pytest.mark.parametrize("bounds", [SECONDS, ROWS])
def test_bounds_rise(bounds):
    assert list(bounds) == sorted(set(bounds))
