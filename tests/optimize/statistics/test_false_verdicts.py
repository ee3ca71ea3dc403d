"""The rules where the truth is exactly at the limit: by how much chance alone makes them pass or fail.

Seeded; each bound allows what chance may add to a rate that keeps its promise. The slow tests have the runs to be strict.
"""

import numpy as np
import pytest

from optimize.statistics import binomial
from optimize.statistics.blocks import block_rule, split_blocks
from optimize.statistics.percentile import ALPHA, LOOKS
from tests.benchmarks import false_verdicts
from tests.benchmarks.traffic import ar1, ar1_percentile, md1, md1_percentile

P99 = 0.99
LIMIT_MS = ar1_percentile(P99)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("calls", [299, 473, 1049, 4000])
def test_one_look_at_independent_calls(calls):
    """Exact: the chance of so few violations is what the rule compares."""
    assert binomial.at_most(binomial.most_hits(calls, 0.01, ALPHA), calls, 0.01) <= 0.05
    assert binomial.at_least(binomial.least_hits(calls, 0.01, ALPHA), calls, 0.01) <= 0.05
    found = false_verdicts.counted(rng().random((4000, calls)), P99, (calls,), ALPHA)
    assert found.passes <= 0.05 + found.slack(0.05)
    assert found.failures <= 0.05 + found.slack(0.05)


def test_three_looks_at_independent_calls():
    found = false_verdicts.counted(rng().random((4000, LOOKS[-1])), P99, LOOKS, ALPHA / len(LOOKS))
    assert 0.03 <= found.passes <= 0.05 + found.slack(0.05)
    assert found.failures <= 0.05 + found.slack(0.05)


def test_three_looks_without_a_share_of_alpha_each_would_err_too_often():
    found = false_verdicts.counted(rng().random((4000, LOOKS[-1])), P99, LOOKS, ALPHA)
    assert found.passes > 0.08


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8])
def test_looks_as_they_are_used_keep_their_promise_when_calls_are_correlated(phi):
    found = false_verdicts.looked(ar1(300, LOOKS[-1], phi, rng(1)), LIMIT_MS)
    assert found.passes <= 0.055 + found.slack(0.055)
    assert found.failures <= 0.055 + found.slack(0.055)


@pytest.mark.parametrize(("phi", "at_least"), [(0.5, 0.055), (0.8, 0.15)])
def test_counting_alone_errs_when_calls_are_correlated(phi, at_least):
    found = false_verdicts.counted(ar1(3000, LOOKS[-1], phi, rng(2)), LIMIT_MS, LOOKS, ALPHA / len(LOOKS))
    assert found.passes > at_least


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_blocks_keep_their_promise_in_a_queue(load):
    found = false_verdicts.queued(load, 1000, rng(3))
    assert found.blocks.passes <= 0.06 + found.blocks.slack(0.06)
    assert found.blocks.failures <= 0.06
    assert found.counting.passes > 0.2, "counting must err here, or the queue is no queue"
    assert found.warned <= 0.1


def test_blocks_err_near_saturation_and_warn():
    found = false_verdicts.queued(0.9, 400, rng(4))
    assert 0.1 <= found.blocks.passes <= 0.3
    assert found.warned >= 0.9


def test_the_simulated_block_rule_is_the_one_in_use():
    limit = md1_percentile(0.9, P99)
    for run in md1(20, 16_000, 0.9, rng(5)):
        fast = false_verdicts.in_blocks(run[None], limit)
        found = block_rule(split_blocks(run), limit).verdict
        assert (fast.passes == 1, fast.failures == 1) == (found == "PASS", found == "FAIL")


@pytest.mark.parametrize("load", [0.3, 0.8, 0.9])
def test_the_queues_true_percentile(load):
    over = np.mean(md1(100, 16_000, load, rng(6)) > md1_percentile(load, P99))
    assert over == pytest.approx(0.01, rel=0.15)


def test_five_processes_of_one_level():
    found = false_verdicts.in_processes(400, 408, 0.02, 1, ALPHA, rng(7))
    assert found.passes <= 0.055 + found.slack(0.055)
    assert found.failures <= 0.055 + found.slack(0.055)


def test_faster_at_three_percent_is_seldom_said():
    found = false_verdicts.compared(1.03, 200, rng(8), bursts=0.1)
    assert found["faster"] <= 0.05 + 0.06
    assert false_verdicts.compared(1.0, 100, rng(8))["tie"] == 1.0


@pytest.mark.parametrize("shape", false_verdicts.SCORE_DROPS)
def test_mean_scores(shape):
    found = false_verdicts.scored(shape, 450, 100, rng(9))
    assert found.passes <= 0.07 + found.slack(0.07)


@pytest.mark.slow
def test_strictly_looks():
    for phi, promise in ((0.0, 0.055), (0.2, 0.055), (0.5, 0.055), (0.8, 0.055)):
        found = false_verdicts.looked(ar1(5000, LOOKS[-1], phi, rng(10)), LIMIT_MS)
        assert found.passes <= promise
        assert found.failures <= promise


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.3, 0.5, 0.7, 0.8])
def test_strictly_blocks(load):
    found = false_verdicts.queued(load, 10_000, rng(11))
    assert found.blocks.passes <= 0.06
    assert found.blocks.failures <= 0.06
