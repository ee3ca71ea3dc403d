import numpy as np
import pytest
from scipy import stats

from optimize.statistics.arrivals import schedule


@pytest.mark.parametrize("kind", ["poisson", "constant"])
def test_exactly_the_declared_calls_arrive_in_order_within_the_span(kind):
    due_s = schedule(kind, 200.0, 16_000, np.random.default_rng(1))
    assert len(due_s) == 16_000
    assert np.all(np.diff(due_s) >= 0)
    assert due_s[0] >= 0
    assert due_s[-1] < 80.0


def test_poisson_gaps_are_exponential():
    gaps_s = np.diff(schedule("poisson", 200.0, 16_000, np.random.default_rng(1)))
    assert stats.kstest(gaps_s, "expon", args=(0, 1 / 200.0)).pvalue > 0.01


def test_poisson_counts_of_a_second_vary_as_a_poisson_process_does():
    due_s = schedule("poisson", 50.0, 50_000, np.random.default_rng(2))
    counts = np.bincount(due_s.astype(int), minlength=1000)
    assert counts.mean() == 50.0
    assert 0.85 < counts.var() / counts.mean() < 1.15


def test_a_seed_gives_one_schedule():
    first, again, other = (schedule("poisson", 10.0, 100, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_constant_arrivals_are_evenly_spaced():
    assert np.allclose(np.diff(schedule("constant", 8.0, 40, np.random.default_rng(0))), 0.125)


def test_no_calls_make_an_empty_schedule():
    assert len(schedule("poisson", 8.0, 0, np.random.default_rng(0))) == 0
