import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.statistics import percentile
from optimize.statistics.percentile import LOOKS, look, percentile_bounds, percentile_rule, pooled
from tests.benchmarks.traffic import ar1, ar1_percentile


def calls(n, over, limit_ms=10.0, seed=0):
    """n independent calls, of which `over` are over the limit."""
    latencies = np.linspace(1.0, 9.0, n)
    latencies[:over] = np.linspace(11.0, 20.0, over)
    return np.random.default_rng(seed).permutation(latencies)


def all_at_once(latencies, limit_ms, share, noise=0.0):
    """The verdict on independent calls that are looked at once, with the whole of alpha."""
    return look(latencies, limit_ms, share, looks=(len(latencies),), noise=noise)


def rule(latencies, limit_ms):
    """The verdict of the calls over the limit alone, for a p99."""
    return percentile_rule(int(np.count_nonzero(latencies > limit_ms)), len(latencies), 0.99)


@pytest.mark.parametrize(("violations", "n"), [(0, 299), (1, 473), (5, 1049)])
def test_one_look_at_p99(violations, n):
    assert percentile_rule(violations, n, 0.99) == "PASS"
    assert percentile_rule(violations, n - 1, 0.99) == "INCONCLUSIVE"
    assert all_at_once(calls(n, violations), 10.0, 0.99).verdict == "PASS"
    assert all_at_once(calls(n - 1, violations), 10.0, 0.99).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(("violations", "n"), [(0, 408), (1, 603), (5, 1228)])
def test_three_looks_at_p99(violations, n):
    assert percentile_rule(violations, n, 0.99, 0.05 / 3) == "PASS"
    assert percentile_rule(violations, n - 1, 0.99, 0.05 / 3) == "INCONCLUSIVE"


def test_a_call_at_the_limit_is_within():
    assert all_at_once(np.full(299, 10.0), 10.0, 0.99).verdict == "PASS"
    assert all_at_once(np.full(299, np.nextafter(10.0, 11.0)), 10.0, 0.99).verdict == "FAIL"


def test_many_calls_over_the_limit_fail():
    assert percentile_rule(8, 299, 0.99) == "FAIL"
    assert percentile_rule(6, 299, 0.99) == "INCONCLUSIVE"


@given(st.integers(1, 1500), st.sampled_from([0.5, 0.95, 0.99]), st.integers(0, 30), st.sampled_from([0.05, 0.05 / 3]))
def test_bounds_and_rule_agree(n, share, over, alpha):
    latencies = calls(n, min(over, n))
    low, high = percentile_bounds(latencies, share, 1 - alpha)
    verdict = percentile_rule(min(over, n), n, share, alpha)
    assert (high <= 10.0, low > 10.0) == (verdict == "PASS", verdict == "FAIL")


def test_bounds_cover_the_truth_as_often_as_they_promise():
    rng = np.random.default_rng(0)
    bounds = np.array([percentile_bounds(row, 0.95, 0.95) for row in rng.random((1000, 400))])
    assert np.mean(bounds[:, 0] > 0.95) <= 0.07
    assert np.mean(bounds[:, 1] < 0.95) <= 0.07
    assert np.mean((bounds[:, 0] > 0.95) | (bounds[:, 1] < 0.95)) > 0.05


@pytest.mark.parametrize(("share", "least"), [(0.5, 5), (0.95, 59), (0.99, 299)])
def test_a_percentile_is_not_printed_below_the_calls_it_takes(share, least):
    assert percentile.min_calls(share) == least
    few, enough = all_at_once(calls(least - 1, 0), 10.0, share), all_at_once(calls(least, 0), 10.0, share)
    assert (few.observed, few.low, few.high) == (None, None, None)
    assert "too few for a p" in few.evidence
    assert enough.observed is not None


def test_before_the_first_look_nothing_is_said():
    found = look(calls(407, 0), 10.0, 0.99)
    assert (found.verdict, found.observed, found.needed, found.n) == ("INCONCLUSIVE", None, 408, 407)


def test_calls_beyond_a_look_wait_for_the_next():
    latencies = np.concatenate([calls(408, 0), np.full(300, 50.0)])
    found = look(latencies, 10.0, 0.99)
    assert (found.verdict, found.n) == ("PASS", 408)


def test_an_undecided_look_names_the_next_one():
    found = look(calls(408, 1), 10.0, 0.99)
    assert (found.verdict, found.needed) == ("INCONCLUSIVE", 1228)
    assert found.evidence == "1 of 408 calls over 10 ms, p99 8.94 ms; about 1,228 calls in all would settle it"


def test_the_last_look_names_the_calls_that_would_settle_it():
    found = look(calls(4000, 33), 10.0, 0.99)
    assert found.verdict == "INCONCLUSIVE"
    assert found.needed > 4000
    assert look(calls(found.needed, 33 * found.needed // 4000), 10.0, 0.99, looks=(found.needed,) * 3).verdict == "PASS"


def test_a_share_over_the_limit_at_its_limit_is_settled_by_no_number():
    found = all_at_once(calls(1000, 10), 10.0, 0.99)
    assert (found.verdict, found.needed) == ("INCONCLUSIVE", None)
    assert "too near the limit" in found.evidence


def test_noise_tightens_the_limit_for_a_pass_and_widens_it_for_a_failure():
    near = np.full(500, 9.9)
    assert all_at_once(near, 10.0, 0.99).verdict == "PASS"
    assert all_at_once(near, 10.0, 0.99, noise=0.02).verdict == "INCONCLUSIVE"
    assert all_at_once(near + 0.2, 10.0, 0.99).verdict == "FAIL"
    assert all_at_once(near + 0.2, 10.0, 0.99, noise=0.02).verdict == "INCONCLUSIVE"
    assert all_at_once(near + 0.4, 10.0, 0.99, noise=0.02).verdict == "FAIL"
    assert "noise of 2.0%" in all_at_once(near, 10.0, 0.99, noise=0.02).evidence


def test_failed_calls_are_over_any_limit():
    latencies = calls(500, 0)
    latencies[:20] = np.inf
    found = all_at_once(latencies, 10.0, 0.99)
    assert (found.verdict, found.observed, found.high) == ("FAIL", None, None)
    assert "a failed call" in found.evidence


def test_autocorrelation_of_known_processes():
    rng = np.random.default_rng(1)
    assert abs(percentile.lag1_autocorrelation(rng.random(4000))) < 0.06
    assert percentile.lag1_autocorrelation(ar1(1, 4000, 0.8, rng)[0]) == pytest.approx(0.79, abs=0.05)
    assert percentile.lag1_autocorrelation(np.ones(100)) == 0.0
    assert percentile.lag1_autocorrelation(np.array([1.0, 2.0])) == 0.0


def test_one_outlier_does_not_hide_that_calls_are_correlated():
    latencies = ar1(1, 1000, 0.8, np.random.default_rng(2))[0]
    latencies[500] = 1e6
    assert percentile.lag1_autocorrelation(latencies) > 0.7


def test_correlated_calls_are_judged_by_blocks_at_the_last_look():
    latencies, limit = ar1(1, 4000, 0.8, np.random.default_rng(3))[0], ar1_percentile(0.99)
    assert look(latencies[:1228], 2 * limit, 0.99).needed == 4000
    found = look(latencies, 2 * limit, 0.99)
    assert (found.verdict, found.n) == ("PASS", 4000)
    assert found.evidence.startswith("consecutive calls are correlated (autocorrelation 0.7")
    assert look(latencies, limit / 2, 0.99).verdict == "FAIL"
    assert look(latencies, limit, 0.99).verdict == "INCONCLUSIVE"


def test_noise_moves_the_limit_of_blocks_too():
    latencies = ar1(1, 4000, 0.8, np.random.default_rng(3))[0]
    worst = max(np.quantile(block, 0.99, method="inverted_cdf") for block in np.split(latencies, 8))
    best = min(np.quantile(block, 0.99, method="inverted_cdf") for block in np.split(latencies, 8))
    assert look(latencies, worst * 1.01, 0.99).verdict == "PASS"
    assert look(latencies, worst * 1.01, 0.99, noise=0.02).verdict == "INCONCLUSIVE"
    assert look(latencies, best * 0.99, 0.99).verdict == "FAIL"
    assert look(latencies, best * 0.99, 0.99, noise=0.02).verdict == "INCONCLUSIVE"


def test_finalists_need_five_processes_with_enough_calls_each():
    short = pooled([calls(299, 0)] * 4 + [calls(298, 0)], 10.0, 0.99)
    assert (short.verdict, short.needed, short.n) == ("INCONCLUSIVE", 5 * 299, 4 * 299 + 298)
    assert pooled([calls(299, 0, seed=n) for n in range(4)], 10.0, 0.99).verdict == "INCONCLUSIVE"
    assert pooled([], 10.0, 0.99).needed == 5 * 299
    assert pooled([calls(299, 0, seed=n) for n in range(5)], 10.0, 0.99).verdict == "PASS"


def test_most_processes_must_agree_with_the_pooled_verdict():
    good = [calls(1000, 1, seed=n) for n in range(3)]
    bad = [calls(1000, 11, seed=n) for n in range(2)]
    alone = rule(np.concatenate(good + bad), 10.0)
    assert alone == "PASS"
    found = pooled(good + bad, 10.0, 0.99)
    assert (found.verdict, found.needed) == ("INCONCLUSIVE", 10_000)
    assert "within the limit in 3 of 5 processes, which differ too much" in found.evidence
    assert pooled([calls(1000, 1, seed=n) for n in range(5)], 10.0, 0.99).verdict == "PASS"


def test_two_processes_over_the_limit_are_too_many_however_far_within_the_others_are():
    far = [calls(1000, 1, seed=n) / 3 for n in range(3)]
    over = [np.minimum(calls(1000, 11, seed=n), 10.1) for n in range(2)]
    assert rule(np.concatenate(far + over), 10.0) == "PASS"
    assert pooled(far + over, 10.0, 0.99).verdict == "INCONCLUSIVE"
    assert pooled([*far, far[0], over[0]], 10.0, 0.99).verdict == "PASS"


def test_processes_that_differ_much_must_be_clear_of_the_limit():
    level = np.random.default_rng(4).lognormal(0, 0.05, 4000)
    limit = 1.12
    calm = [level[n::5] for n in range(5)]
    apart = [level[n::5] * scale for n, scale in enumerate((0.6, 0.7, 1.0, 1.0, 1.0))]
    assert pooled(calm, limit * 1.05, 0.99).verdict == "PASS"
    assert rule(np.concatenate(apart), limit * 1.02) == "PASS"
    assert pooled(apart, limit * 1.02, 0.99).verdict == "INCONCLUSIVE"


def test_a_process_whose_calls_fail_never_passes_and_may_fail():
    good = [calls(400, 0, seed=n) for n in range(4)]
    assert pooled([*good, np.full(400, np.inf)], 10.0, 0.99).verdict != "PASS"
    assert pooled([np.full(400, np.inf)] * 5, 10.0, 0.99).verdict == "FAIL"


def test_without_a_limit_the_figures_are_given():
    found = pooled([calls(400, 0, seed=n) for n in range(5)], math.inf, 0.99)
    assert found.verdict == "PASS"
    assert found.observed is not None


def test_processes_whose_calls_are_correlated_are_judged_by_their_halves():
    runs = list(ar1(5, 1228, 0.8, np.random.default_rng(5)))
    limit = ar1_percentile(0.99)
    found = pooled(runs, 2 * limit, 0.99)
    assert found.verdict == "PASS"
    assert "in 10 of 10 blocks of 614 calls" in found.evidence
    short = pooled([run[:408] for run in runs], 2 * limit, 0.99)
    assert (short.verdict, short.needed) == ("INCONCLUSIVE", 5000)
    assert short.observed is not None


def test_looks_are_fixed():
    assert LOOKS == (408, 1228, 4000)
