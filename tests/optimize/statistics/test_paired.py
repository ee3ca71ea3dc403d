import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.special import ndtri, xlogy

from optimize.statistics import paired
from tests.benchmarks.false_verdicts import chance, paired_rules, tango_score, worst_paired


def tango_interval(lost, won, n, z):
    """Tango's interval, by inverting his statistic."""
    observed = (lost - won) / n
    return (
        brentq(lambda drop: tango_score(lost, won, n, drop) - z, -1 + 1e-9, observed - 1e-9),
        brentq(lambda drop: tango_score(lost, won, n, drop) + z, observed + 1e-9, 1 - 1e-9),
    )


def test_tangos_worked_example():
    """Tango, Statistics in Medicine 17 (1998), section 6.1: disinfection of contact lenses, 43, 0, 1, 0 of 44, margin 0.1."""
    assert tango_score(0, 1, 44, -0.1) == pytest.approx(1.709, abs=5e-4)
    low, _ = tango_interval(0, 1, 44, 1.645)
    assert low == pytest.approx(-0.096, abs=5e-4)


def test_an_example_of_the_textbook():
    """Cavo et al. (2012), 59, 6, 16, 80 of 161: -0.1240 to -0.0054 in Fagerland, Lydersen and Laake, Statistical Analysis of
    Contingency Tables (2017), chapter 8, as their R package contingencytables prints it.
    """
    low, high = tango_interval(6, 16, 161, float(ndtri(0.975)))
    assert (low, high) == (pytest.approx(-0.1240, abs=5e-5), pytest.approx(-0.0054, abs=5e-5))


def second_score(lost, won, n, drop):
    """The statistic again, its nuisance share found by maximising the likelihood numerically."""

    def unlikelihood(won_share):
        both = 1 - drop - 2 * won_share
        return -(xlogy(lost, won_share + drop) + xlogy(won, won_share) + xlogy(n - lost - won, max(both, 0)))

    lowest, highest = max(0.0, -drop), (1 - drop) / 2
    found = minimize_scalar(unlikelihood, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}).x
    found = min((found, lowest), key=unlikelihood)
    return (lost - won - n * drop) / math.sqrt(n * (2 * found + drop - drop**2))


@pytest.mark.parametrize(("lost", "won", "n"), [(6, 16, 161), (7, 1, 21), (25, 28, 618), (0, 1, 44), (3, 0, 450)])
@pytest.mark.parametrize("drop", [-0.05, 0.011, 0.02, 0.3])
def test_the_statistic_is_a_score_test_at_the_likeliest_nuisance(lost, won, n, drop):
    assert tango_score(lost, won, n, drop) == pytest.approx(second_score(lost, won, n, drop), rel=1e-4)


@given(st.integers(1, 5000), st.data(), st.floats(0.51, 0.9999))
def test_bounds_contain_the_observed_drop_and_mirror_each_other(n, data, confidence):
    lost = data.draw(st.integers(0, n))
    won = data.draw(st.integers(0, n - lost))
    low, high = paired.lower_bound(lost, won, n, confidence), paired.upper_bound(lost, won, n, confidence)
    assert -1 <= low <= (lost - won) / n <= high <= 1
    assert low == -paired.upper_bound(won, lost, n, confidence)


@given(st.integers(20, 2000), st.integers(0, 20), st.integers(0, 20))
def test_more_lost_answers_and_more_confidence_raise_the_bound(n, lost, won):
    assume(lost + won < n)
    bound = paired.upper_bound(lost, won, n, 0.95)
    assert paired.upper_bound(lost + 1, won, n, 0.95) >= bound
    assert paired.upper_bound(lost, won, n, 0.99) > bound - 1e-9


def test_no_discordant_sample_needs_about_what_an_exact_test_needs():
    exact = math.log(0.05) / math.log(0.98)
    assert paired.upper_bound(0, 0, 149, 0.95) > 0.02
    assert paired.upper_bound(0, 0, round(1.05 * exact), 0.95) < 0.02


def test_bounds_keep_their_promise_where_tangos_do_not():
    """Exact chances of a false verdict at the limit, over sizes at which few samples change sides."""
    where = {"sizes": (256, 280, 450, 475, 500, 1000), "drops": (0.01, 0.02), "won_shares": (0.0, 0.001, 0.01)}
    assert worst_paired("PASS", **where) <= 0.05
    assert worst_paired("FAIL", **where) <= 0.05
    assert worst_paired("tango PASS", **where) > 0.06
    assert worst_paired("tango FAIL", **where) > 0.07


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [50, 100, 450, 1000, 5000, 11_000])
def test_bounds_keep_their_promise_everywhere(n, confidence):
    for size in range(n, n + n // 5, max(n // 20, 1)):
        for drop in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1):
            rules = paired_rules(size, drop, confidence)
            for won in (0.0, 0.0005, 0.003, 0.01, 0.03, 0.1):
                for rule in ("PASS", "FAIL"):
                    found = chance(rules[rule], size, won + drop, won, few_lost=rule == "PASS")
                    assert found <= (1 - confidence) * 1.01, (rule, size, drop, won)


@pytest.mark.parametrize(
    ("lost", "won", "n", "max_drop"), [(10, 10, 1000, 0.01), (60, 40, 1000, 0.03), (1, 0, 100, 0.03), (1, 3, 100, 0.01)]
)
def test_the_stated_number_of_samples_settles_it_with_about_four_chances_in_five(lost, won, n, max_drop):
    needed = paired.pairs_to_settle(lost, won, n, max_drop, 0.95)
    assert needed > n
    passes = paired_rules(needed, max_drop)["PASS"]
    assert 0.77 <= chance(passes, needed, lost / n, won / n, few_lost=True) <= 0.9


def test_a_drop_over_the_limit_is_settled_as_well():
    needed = paired.pairs_to_settle(40, 10, 1000, 0.02, 0.95)
    fails = paired_rules(needed, 0.02)["FAIL"]
    assert 0.75 <= chance(fails, needed, 0.04, 0.01, few_lost=False) <= 0.9


def test_nothing_settles_a_drop_at_the_limit():
    assert paired.pairs_to_settle(2, 0, 100, 0.02, 0.95) is None
    assert paired.pairs_to_settle(0, 0, 100, 0.0, 0.95) is None
