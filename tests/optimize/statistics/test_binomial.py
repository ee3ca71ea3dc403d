import numpy as np
import pytest
from scipy.stats import binom, binomtest

from optimize.statistics import binomial


@pytest.mark.parametrize(("count", "n", "share"), [(0, 299, 0.01), (5, 1049, 0.01), (7, 7, 0.3), (40, 4000, 0.01)])
def test_tails_are_those_of_the_binomial_distribution(count, n, share):
    assert binomial.at_most(count, n, share) == pytest.approx(binom.cdf(count, n, share))
    assert binomial.at_least(count, n, share) == pytest.approx(binom.sf(count - 1, n, share))


def test_tails_beyond_the_ends_are_0_and_1():
    assert binomial.at_most(-1, 10, 0.5) == 0.0
    assert binomial.at_most(10, 10, 0.5) == 1.0
    assert binomial.at_least(0, 10, 0.5) == 1.0
    assert binomial.at_least(11, 10, 0.5) == 0.0


@pytest.mark.parametrize(("count", "n"), [(0, 20), (3, 20), (20, 20), (569, 600)])
def test_bounds_are_clopper_and_pearsons(count, n):
    exact = binomtest(count, n).proportion_ci(0.9, "exact")
    assert binomial.lower_bound(count, n, 0.95) == pytest.approx(exact.low)
    assert binomial.upper_bound(count, n, 0.95) == pytest.approx(exact.high)


@pytest.mark.parametrize(("count", "one_look", "three_looks"), [(0, 299, 408), (1, 473, 603), (5, 1049, 1228)])
def test_fewest_calls_that_show_a_p99(count, one_look, three_looks):
    assert binomial.fewest(count, 0.01, 0.05) == one_look
    assert binomial.fewest(count, 0.01, 0.05 / 3) == three_looks


@pytest.mark.parametrize("n", [10, 299, 1228])
def test_most_and_least_hits_are_the_last_that_decide(n):
    most, least = binomial.most_hits(n, 0.01, 0.05), binomial.least_hits(n, 0.01, 0.05)
    assert [binom.cdf(v, n, 0.01) <= 0.05 for v in (most, most + 1)] == [True, False]
    assert [binom.sf(v - 1, n, 0.01) <= 0.05 for v in (least - 1, least)] == [False, True]


def _power(n, share, truth):
    return binom.cdf(binomial.most_hits(n, share, 0.05), n, truth)


@pytest.mark.parametrize(("share", "truth"), [(0.05, 0.028), (0.01, 0.005), (0.3, 0.1)])
def test_stated_samples_settle_it_with_four_chances_in_five_from_there_on(share, truth):
    needed = binomial.samples_to_show_less(share, truth, 0.05)
    assert min(_power(n, share, truth) for n in range(needed, needed + 500)) >= 0.8
    assert min(_power(n, share, truth) for n in range(needed - needed // 5, needed)) < 0.8


def test_agreement_near_its_limit_needs_many_samples():
    assert binomial.samples_to_show_more(0.97, 0.972, 0.05) == pytest.approx(43_800, rel=0.02)
    assert binomial.samples_to_show_more(0.95, 0.972, 0.05) == pytest.approx(600, rel=0.1)
    assert _power(43_800, 0.03, 0.028) >= 0.8
    assert _power(600, 0.05, 0.028) >= 0.8


def test_nothing_shows_what_is_not_so():
    assert binomial.samples_to_show_less(0.01, 0.01, 0.05) is None
    assert binomial.samples_to_show_more(0.9, 0.8, 0.05) is None
    assert binomial.samples_to_show_less(0.01, np.nextafter(0.01, 0), 0.05) is None
