import grpc
import numpy as np
import pytest

from loadtest import verdict
from loadtest.verdict import Generator, Run
from optimize.budgets import ThroughputBudget
from tests.loadtest.calls import calls

RATE = 100.0
COUNT = 8 * 200
LATE = Generator(1.0, 80.0, 90.0, 12.5, kept_up=False)
ON_TIME = Generator(0.1, 1.0, 2.0, 12.5, kept_up=True)
BUDGET = ThroughputBudget(qps=RATE, p99_ms=50.0)


def run(rate_qps=RATE, min_block_calls=200, count=COUNT, **kinds):
    return Run(calls(count, rate_qps, **kinds), rate_qps, 0.0, count / rate_qps, min_block_calls)


def outcomes(tested, budget=BUDGET, health=ON_TIME):
    return {found.budget: found.verdict for found in verdict.judge(tested, budget, health)}


def slow_from(start, latency_ms=80.0):
    return np.where(np.arange(COUNT) >= start, latency_ms, 10.0)


def test_a_service_within_its_budget_passes():
    assert outcomes(run()) == {"throughput.qps": "PASS", "throughput.p99_ms": "PASS"}


def test_a_p99_over_its_limit_in_every_block_fails():
    assert outcomes(run(latency_ms=slow_from(0)))["throughput.p99_ms"] == "FAIL"


def test_a_p99_over_its_limit_in_some_blocks_is_inconclusive():
    assert outcomes(run(latency_ms=slow_from(COUNT // 2)))["throughput.p99_ms"] == "INCONCLUSIVE"


def test_failed_calls_break_the_p99_and_the_rate():
    codes = np.where(np.arange(COUNT) % 20 == 0, grpc.StatusCode.INTERNAL.value[0], 0)
    found = {v.budget: v for v in verdict.judge(run(code=codes), BUDGET, ON_TIME)}
    assert found["throughput.p99_ms"].verdict == "FAIL"
    assert found["throughput.p99_ms"].observed is None
    assert found["throughput.qps"].verdict == "FAIL"
    assert found["throughput.qps"].observed == pytest.approx(95.0, abs=0.1)


def test_the_lead_in_is_not_judged():
    tested = run(latency_ms=np.where(np.arange(COUNT) < 200, 5_000.0, 10.0), count=COUNT)
    later = Run(tested.calls, RATE, 2.0, tested.end_s, 175)
    assert outcomes(later)["throughput.p99_ms"] == "PASS"


def test_too_few_calls_prove_nothing_and_say_how_many_would():
    found = verdict.judge(run(min_block_calls=2000), BUDGET, ON_TIME)
    assert [(v.verdict, v.needed) for v in found] == [("INCONCLUSIVE", 16_000)] * 2


def test_the_rate_is_checked_against_the_chance_of_a_poisson_count():
    # 1,600 expected: 1,535 are within one-sided chance of 5 %, 1,533 are not (Garwood's upper bound of 1,533 is 1,599.6).
    for lost, expected in [(65, "PASS"), (67, "FAIL")]:
        codes = np.where(np.arange(COUNT) < lost, 14, 0)
        found = verdict.rate(run(latency_ms=0.0, code=codes), RATE)
        assert found.verdict == expected, found


def test_bounds_of_the_rate_are_those_of_the_chi_squared_distribution():
    from scipy.stats import chi2

    found = verdict.rate(run(latency_ms=0.0), RATE)
    assert found.low == pytest.approx(chi2.ppf(0.05, 2 * COUNT) / 2 / 16.0)
    assert found.high == pytest.approx(chi2.ppf(0.95, 2 * COUNT + 2) / 2 / 16.0)


def test_no_good_answer_fails():
    found = verdict.rate(run(code=14), RATE)
    assert (found.verdict, found.observed, found.low) == ("FAIL", 0.0, 0.0)


def test_a_service_that_falls_behind_fails_on_the_rate_although_it_answers_everything():
    behind = np.linspace(0.0, 3_000.0, COUNT)
    assert outcomes(run(latency_ms=behind), ThroughputBudget(qps=RATE))["throughput.qps"] == "FAIL"


@pytest.mark.parametrize("kinds", [{}, {"latency_ms": 80.0}, {"code": 14}])
def test_nothing_is_blamed_on_the_service_when_the_generator_was_late(kinds):
    found = verdict.judge(run(**kinds), BUDGET, LATE)
    assert {v.verdict for v in found} == {"INCONCLUSIVE"}
    assert all("generator could not keep up" in v.evidence for v in found)


def test_a_fail_that_only_the_generators_lateness_makes_is_inconclusive():
    (_, found) = verdict.judge(run(latency_ms=55.0, late_ms=10.0), BUDGET, ON_TIME)
    assert found.verdict == "INCONCLUSIVE"
    assert "lateness decides" in found.evidence


def test_a_fail_stands_if_it_holds_without_the_generators_lateness():
    assert outcomes(run(latency_ms=65.0, late_ms=10.0))["throughput.p99_ms"] == "FAIL"


def test_less_load_than_declared_proves_no_pass_and_no_rate():
    assert outcomes(run(rate_qps=50.0)) == {"throughput.qps": "INCONCLUSIVE", "throughput.p99_ms": "INCONCLUSIVE"}
    assert outcomes(run(rate_qps=50.0, latency_ms=80.0))["throughput.p99_ms"] == "FAIL"


def test_more_load_than_declared_proves_no_fail():
    assert outcomes(run(rate_qps=200.0)) == {"throughput.qps": "PASS", "throughput.p99_ms": "PASS"}
    assert outcomes(run(rate_qps=200.0, latency_ms=80.0))["throughput.p99_ms"] == "INCONCLUSIVE"


def test_only_what_is_declared_is_judged():
    assert outcomes(run(latency_ms=5_000.0), ThroughputBudget(qps=RATE)).keys() == {"throughput.qps"}


@pytest.mark.parametrize(
    ("late_ms", "limit_ms", "tolerance_ms", "kept_up"),
    [
        (4.9, 8.0, 5.0, True),
        (5.1, 8.0, 5.0, False),
        (19.0, 80.0, 20.0, True),
        (21.0, 80.0, 20.0, False),
        (90.0, None, 100.0, True),
    ],
)
def test_the_generator_kept_up_within_a_quarter_of_the_limit(late_ms, limit_ms, tolerance_ms, kept_up):
    few_late = np.where(np.arange(1000) % 50 == 0, late_ms, 0.1)
    found = verdict.generator(calls(1000, late_ms=few_late), limit_ms)
    assert (found.tolerance_ms, found.kept_up) == (tolerance_ms, kept_up)
    assert found.late_max_ms == pytest.approx(late_ms)


def test_one_late_call_in_two_hundred_is_no_sign_of_a_generator_at_its_limit():
    rarely = np.where(np.arange(1000) % 200 == 0, 500.0, 0.1)
    assert verdict.generator(calls(1000, late_ms=rarely), 50.0).kept_up


@pytest.mark.parametrize(
    ("outcomes_of_budgets", "expected"),
    [
        ("PASS PASS", "PASS"),
        ("PASS FAIL", "FAIL"),
        ("INCONCLUSIVE FAIL", "FAIL"),
        ("PASS INCONCLUSIVE", "INCONCLUSIVE"),
    ],
)
def test_a_run_is_as_bad_as_its_worst_budget(outcomes_of_budgets, expected):
    found = verdict.rate(run(), RATE)
    records = tuple(
        verdict.structs.replace(found, verdict=outcome).against("throughput.qps", RATE)
        for outcome in outcomes_of_budgets.split()
    )
    assert verdict.overall(records) == expected
