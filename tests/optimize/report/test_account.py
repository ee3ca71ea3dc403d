import msgspec
import pytest

from optimize.manifest import CandidateResult, Result, StageTime
from optimize.report.account import BUILT, QUICK, STALE, account, reused, summary, tone_of
from tests.optimize.report import results
from tests.optimize.report.results import candidate, verdict


def test_winner_is_named_with_what_it_keeps() -> None:
    told = account(results.won())
    assert told.headline == "int8-dynamic@onnxruntime-cpu wins"
    assert told.detail == "published as version 3; it meets all 7 budgets and is best for the objective, throughput"
    assert (told.tone, told.warnings, told.questions) == ("good", (), ())
    assert told.winner is not None
    assert told.winner.candidate.status == "winner"


@pytest.mark.parametrize(
    ("made", "headline", "tone"),
    [
        (results.without_winner(), "No candidate meets every budget", "bad"),
        (results.all_failed(), "No candidate meets every budget", "bad"),
        (results.inconclusive(), "Undecided: more measurements are needed", "open"),
        (results.broken(), "The export could not run: there is something to fix first", "bad"),
        (results.result("x", exit_code=4, reason="disk full"), "The run itself broke", "bad"),
        (results.quick(), "1 of 2 candidates came through the screens", "open"),
        (results.built(), "1 of 2 candidates were built", "open"),
    ],
)
def test_without_winner_the_headline_says_what_happened(made: Result, headline: str, tone: str) -> None:
    told = account(made)
    assert (told.headline, told.tone, told.winner) == (headline, tone, None)


def test_partial_runs_and_changed_budgets_are_marked() -> None:
    assert account(results.quick()).warnings == (QUICK,)
    assert account(results.built()).warnings == (BUILT,)
    assert account(results.won(), stale=True).warnings == (STALE,)
    assert account(results.quick(), stale=True).warnings == (QUICK, STALE)


def test_each_loser_says_which_budgets_it_lost_and_by_how_much() -> None:
    why = {standing.candidate.name: standing.why for standing in account(results.won()).losers}
    assert why["fp32@onnxruntime-cpu"] == (
        "Size is 91 MB: 51 MB (127%) over its limit of 40 MB",
        "Speed-up is 1.15 times: 0.65 times (36%) under its limit of 1.8 times",
        "Cost per million rows is 0.3043: 0.1043 (52%) over its limit of 0.2",
    )
    assert why["fp16@onnxruntime-cpu"] == ("only when asked for: slower than fp32 on most CPUs",)
    assert why["int8-static@onnxruntime-cpu"][0].startswith("accuracy.max_drop in the screen")
    assert "Agreement is 0.72: 0.23 (24%) under its limit of 0.95" in why["int8-static@onnxruntime-cpu"]


def test_source_and_winner_are_no_losers() -> None:
    named = [standing.candidate.name for standing in account(results.won()).losers]
    assert named == ["fp32@onnxruntime-cpu", "fp16@onnxruntime-cpu", "int8-static@onnxruntime-cpu"]


@pytest.mark.parametrize(
    ("made", "title"),
    [
        (results.won(), "Why the others lost"),
        (results.all_failed(), "Why none won"),
        (results.quick(), "Where each candidate stands"),
    ],
)
def test_losers_of_a_partial_run_have_not_lost(made: Result, title: str) -> None:
    assert account(made).losers_title == title


def test_failure_to_observe_leaves_the_reason_standing() -> None:
    unseen = candidate("fp32@x", "over-budget", "answers NaN", verdicts=(verdict("accuracy.max_drop", None, "FAIL"),))
    (standing,) = account(results.result("m", unseen)).losers
    assert standing.why == ("answers NaN",)
    assert standing.budgets[0].observed == "—"


def test_every_declared_budget_has_a_row_for_every_candidate() -> None:
    told = account(results.won())
    keys = [limit.key for limit in told.limits]
    assert all([row.key for row in standing.budgets] == keys for standing in told.standings)


def test_row_says_observed_limit_bounds_n_verdict_and_evidence() -> None:
    winner = account(results.won()).winner
    assert winner is not None
    row = next(row for row in winner.budgets if row.key == "latency.p99_ms")
    assert (row.title, row.observed, row.limit) == ("Latency p99", "14 ms", "at most 40 ms")
    assert (row.bounds, row.n, row.outcome) == ("13.72 to 14.28 ms", "1,234", "PASS")
    assert row.evidence == "evidence of latency.p99_ms"


def test_inconclusive_budgets_say_what_would_settle_them() -> None:
    asked = {question.budget: question.settled_by for question in account(results.inconclusive()).questions}
    assert asked["Accuracy drop"] == "1,234 samples so far; about 4,378 in all would settle it"
    assert asked["Latency p99"] == "evidence of latency.p99_ms"
    assert asked["Agreement and Peak memory and Speed-up and Cost per million rows"] == "not measured in this run"


@pytest.mark.parametrize("made", [results.quick(), results.with_winner_and_open_loser()])
def test_what_was_left_unmeasured_on_purpose_is_no_question(made: Result) -> None:
    assert account(made).questions == ()


def test_unmeasured_budget_is_marked_only_for_who_may_still_win() -> None:
    open_one = account(results.inconclusive()).standings[0]
    assert [row.outcome for row in open_one.budgets].count("not measured") == 4
    absent = next(s for s in account(results.won()).standings if s.candidate.status == "n/a")
    assert {row.outcome for row in absent.budgets} == {""}
    assert (absent.shown, absent.measured) == ((), False)


def test_hostile_text_keeps_no_control_characters() -> None:
    told = account(results.hostile())
    said = [told.headline, told.detail, *(reason for standing in told.losers for reason in standing.why)]
    assert all(text.isprintable() for text in said)


def test_summary_counts_the_winners() -> None:
    assert summary((results.won(),)) == "sentiment: int8-dynamic@onnxruntime-cpu wins"
    assert summary((results.won(), results.all_failed())) == "1 of 2 models has a winner"
    assert summary((results.won(), results.many(), results.all_failed())) == "2 of 3 models have a winner"


def test_stage_times_say_what_the_cache_saved() -> None:
    assert reused(results.won().stages) == "3 steps in 46.0 s, 1 from the cache"
    assert reused((StageTime("build", 2.0, cached=True),)) == "1 step in 2.0 s, 1 from the cache"


def test_every_status_and_verdict_has_a_tone() -> None:
    statuses = msgspec.json.schema(CandidateResult)["$defs"]["CandidateResult"]["properties"]["status"]["enum"]
    tones = {status: tone_of(status) for status in statuses}
    assert {status for status, tone in tones.items() if tone == "quiet"} == {"n/a", "built", "not-measured"}
    assert [tone_of(word) for word in ("PASS", "FAIL", "INCONCLUSIVE")] == ["good", "bad", "open"]
