import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.budgets import AccuracyBudget, LatencyBudget, ModelBudgets, SizeBudget, ThroughputBudget, limits
from optimize.errors import Exit
from optimize.manifest import CandidateResult, Measurement, Outcome, Status, Verdict
from optimize.tournament import choice

BUDGETS = ModelBudgets(
    source="m.onnx",
    accuracy=AccuracyBudget(max_drop=0.02, min_agreement=0.95),
    latency=LatencyBudget(p99_ms=5.0),
    size=SizeBudget(mb=2.0),
)
KEYS = [limit.key for limit in limits(BUDGETS)]
OUTCOMES: list[Outcome] = ["PASS", "FAIL", "INCONCLUSIVE"]


def verdict(
    key: str, outcome: Outcome = "PASS", observed: float | None = 1.0, limit: float = 1.0, needed: int | None = None
) -> Verdict:
    return Verdict(key, limit, observed, None, None, 300, outcome, "as observed", needed)


def candidate(
    precision: Any = "fp32",
    *verdicts: Verdict,
    status: Status = "not-measured",
    runtime: str = "onnxruntime-cpu",
    **measured: float,
) -> CandidateResult:
    measurements = tuple(Measurement(key.replace("__", "."), value, "MB", 1, "test") for key, value in measured.items())
    return CandidateResult(f"{precision}@{runtime}", precision, runtime, status, "", verdicts, measurements)


def all_passed() -> dict[str, Verdict]:
    return {key: verdict(key) for key in KEYS}


def test_candidate_that_keeps_every_budget_qualifies() -> None:
    assert choice.judged(BUDGETS, candidate("fp32", *all_passed().values())).status == "qualified"


@given(st.lists(st.sampled_from([*OUTCOMES, None]), min_size=4, max_size=4))
def test_status_follows_from_the_verdicts(outcomes: list[Outcome | None]) -> None:
    given_verdicts = [verdict(key, outcome) for key, outcome in zip(KEYS, outcomes, strict=True) if outcome]
    status = choice.judged(BUDGETS, candidate("fp32", *given_verdicts)).status
    if "FAIL" in outcomes:
        assert status == "over-budget"
    elif set(outcomes) == {"PASS"}:
        assert status == "qualified"
    else:
        assert status == "inconclusive"


@pytest.mark.parametrize("key", KEYS)
def test_unmeasured_budget_is_never_met(key: str) -> None:
    verdicts = all_passed()
    del verdicts[key]
    judged = choice.judged(BUDGETS, candidate("fp32", *verdicts.values()))
    assert (judged.status, judged.reason) == ("inconclusive", f"{key} was not measured")


def test_budget_that_is_measured_later_is_not_required_yet() -> None:
    verdicts = all_passed()
    del verdicts["latency.p99_ms"]
    waiting = choice.judged(BUDGETS, candidate("fp32", *verdicts.values()), still_to_come=("latency",))
    assert waiting.status == "qualified"


def test_runner_up_without_a_load_test_says_that_it_qualified_so_far() -> None:
    budgets = msgspec.structs.replace(BUDGETS, throughput=ThroughputBudget(qps=100, p99_ms=50))
    runner_up = choice.judged_runner_up(budgets, candidate("fp32", *all_passed().values()))
    reason = "qualified so far; throughput is measured for the best only"
    assert (runner_up.status, runner_up.reason) == ("inconclusive", reason)
    how = {"fp32@onnxruntime-cpu": "fp32 against int8: slower"}
    placed = choice.with_winner([runner_up, candidate("int8-static")], "int8-static@onnxruntime-cpu", how)
    assert placed[0].reason == f"does not win: fp32 against int8: slower; {reason}"


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE"])
def test_runner_up_that_lost_or_lacks_more_is_judged_like_any_other(outcome: Outcome) -> None:
    budgets = msgspec.structs.replace(BUDGETS, throughput=ThroughputBudget(qps=100))
    other = candidate("fp32", *{**all_passed(), "size.mb": verdict("size.mb", outcome)}.values())
    assert choice.judged_runner_up(budgets, other) == choice.judged(budgets, other)
    complete = candidate("fp32", *all_passed().values())
    assert choice.judged_runner_up(BUDGETS, complete).status == "qualified"


def test_each_lost_budget_is_named_with_how_much_was_lost() -> None:
    lost = {
        **all_passed(),
        "accuracy.min_agreement": verdict("accuracy.min_agreement", "FAIL", 0.9, 0.95),
        "latency.p99_ms": verdict("latency.p99_ms", "FAIL", 7.5, 5.0),
    }
    judged = choice.judged(BUDGETS, candidate("fp32", *lost.values()))
    assert judged.reason == (
        "accuracy.min_agreement is 0.9, 0.05 under its limit of 0.95; latency.p99_ms is 7.5, 2.5 over its limit of 5"
    )


def test_lost_budget_without_a_figure_shows_its_evidence() -> None:
    judged = choice.judged(BUDGETS, candidate("fp32", verdict("latency.p99_ms", "FAIL", None)))
    assert judged.reason == "latency.p99_ms: as observed"


@pytest.mark.parametrize(
    ("needed", "text"),
    [
        (1228, "about 1,228 samples would settle it"),
        (10**12, "more than 10,000,000 samples would settle it"),
        (None, "no number of samples can be named"),
    ],
)
def test_undecided_budget_says_how_many_samples_would_settle_it(needed: int | None, text: str) -> None:
    open_one = {**all_passed(), "latency.p99_ms": verdict("latency.p99_ms", "INCONCLUSIVE", needed=needed)}
    judged = choice.judged(BUDGETS, candidate("fp32", *open_one.values()))
    assert judged.reason == f"latency.p99_ms is undecided after 300 samples: {text}"


def test_order_is_by_simplicity_and_holds_the_qualified_alone() -> None:
    precisions = ["int8-static", "fp16", "int8-dynamic", "fp32", "source"]
    candidates = [candidate(precision, status="qualified") for precision in precisions]
    candidates += [
        candidate("fp32", status=status, runtime="other") for status in ("failed", "inconclusive", "over-budget")
    ]
    found = [candidate.precision for candidate in choice.in_order_of_simplicity(candidates)]
    assert found == ["fp32", "fp16", "int8-dynamic", "int8-static"]


@pytest.mark.parametrize(
    ("objective", "key", "by_timing"),
    [
        ("latency", "", True),
        ("throughput", "", True),
        ("memory", "memory.peak_mb", False),
        ("size", "size.mb", False),
    ],
)
def test_objective_is_read_or_timed(objective: Any, key: str, by_timing: bool) -> None:
    budgets = ModelBudgets(source="m.onnx", objective=objective)
    assert choice.decided_by_timing(budgets) == by_timing
    if by_timing:
        return
    name = key.replace(".", "__")
    best = candidate("fp32", **{name: 100.0})
    # 3 % is a tie, and a tie goes to the simpler one.
    for value, wins in [(90.0, True), (97.0, True), (97.2, False), (100.0, False), (110.0, False)]:
        assert choice.improves(budgets, candidate("int8-static", **{name: value}), best) == wins


def test_candidate_that_was_not_measured_does_not_improve() -> None:
    budgets = ModelBudgets(source="m.onnx", objective="size")
    assert not choice.improves(budgets, candidate("int8-static"), candidate("fp32", size__mb=9.0))
    assert not choice.improves(budgets, candidate("int8-static", size__mb=1.0), candidate("fp32"))


def test_only_the_winner_is_marked() -> None:
    placed = choice.with_winner([candidate("fp32", status="qualified"), candidate("fp16")], "fp32@onnxruntime-cpu")
    assert [candidate.status for candidate in placed] == ["winner", "not-measured"]


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["winner", "qualified", "failed"], Exit.OK),
        (["over-budget", "failed", "n/a", "screened-out"], Exit.OVER_BUDGET),
        (["failed", "failed"], Exit.OVER_BUDGET),
        (["n/a"], Exit.OVER_BUDGET),
        (["inconclusive", "over-budget"], Exit.INCONCLUSIVE),
        (["qualified", "over-budget"], Exit.INCONCLUSIVE),  # a quick run: no winner is chosen
        ([], Exit.OVER_BUDGET),
    ],
)
def test_exit_code_of_one_model(statuses: list[Status], code: Exit) -> None:
    assert choice.exit_of([candidate("fp32", status=status) for status in statuses]) == code


@pytest.mark.parametrize("status", ["qualified", "inconclusive", "winner"])
def test_source_decides_no_exit_code(status: Status) -> None:
    assert choice.exit_of([candidate("source", status=status), candidate("fp32", status="failed")]) == Exit.OVER_BUDGET


@pytest.mark.parametrize("codes", list(itertools.permutations([2, 4, 1, 3, 0], 3)))
def test_exit_code_of_several_models_is_2_before_4_before_1_before_3_before_0(codes: tuple[int, ...]) -> None:
    assert choice.worst(codes) == next(code for code in (2, 4, 1, 3, 0) if code in codes)


def test_reason_counts_the_statuses() -> None:
    candidates = [
        candidate(status="n/a"),
        candidate(status="over-budget"),
        candidate(status="n/a"),
        candidate("source", status="failed"),
    ]
    assert choice.reason_of(BUDGETS, candidates) == ("none of 3 candidates keeps all 4 budgets: 2 n/a, 1 over-budget")


def test_reason_of_a_quick_run_says_how_to_go_on() -> None:
    for left in ("qualified", "inconclusive"):
        candidates = [candidate(status=left), candidate(status="failed")]
        assert choice.reason_of(BUDGETS, candidates, quick=True) == (
            f"1 {left}, 1 failed, by the screens alone: export without --quick to choose the winner"
        )
    assert choice.reason_of(BUDGETS, [candidate(status="failed")], quick=True).startswith("none of 1 candidate keeps")


def test_loser_of_a_comparison_says_how_it_lost() -> None:
    tried = [
        candidate("fp32", status="qualified"),
        candidate("int8-static", status="qualified"),
        candidate("fp16", status="failed"),
    ]
    lost = {"fp32@onnxruntime-cpu": "1.22 times as slow", "fp16@onnxruntime-cpu": "not compared"}
    placed = choice.with_winner(tried, "int8-static@onnxruntime-cpu", lost)
    assert [candidate.status for candidate in placed] == ["qualified", "winner", "failed"]
    assert "does not win: 1.22 times as slow" in placed[0].reason
    assert placed[2] == tried[2]


def test_measured_objective_is_compared_by_both_figures() -> None:
    small, large = candidate("int8-static", size__mb=0.17), candidate("fp32", size__mb=0.62)
    how = choice.compared(ModelBudgets(source="m.onnx", objective="size"), small, large)
    assert how.startswith("int8-static@onnxruntime-cpu against fp32@onnxruntime-cpu: size.mb of 0.17 and 0.62")


def test_reason_of_a_run_that_only_builds_says_how_to_go_on() -> None:
    candidates = [candidate(status="built"), candidate(status="failed")]
    assert choice.reason_of(BUDGETS, candidates, build_only=True) == (
        "1 built, 1 failed: nothing was judged, export without --build-only to choose the winner"
    )
    assert choice.exit_of(candidates, build_only=True) == Exit.OK
    assert choice.exit_of(candidates[1:], build_only=True) == Exit.OVER_BUDGET
