"""Which candidate wins, and what happens to the others."""

from pathlib import Path
from typing import Any

import pytest

from optimize.errors import ProcessError
from tests.optimize.fake_exports import Project, project
from tests.optimize.fake_stages import Candidate, FakeStages

FAST, SLOW = Candidate(ms=1.0), Candidate(ms=2.0, row_ms=1.0)
LATENCY = {"latency__p99_ms": 8.0}
LOAD = LATENCY | {"throughput__qps": 100.0, "throughput__p99_ms": 10.0}


@pytest.mark.parametrize(
    ("int8_ms", "winner"), [(0.5, "int8-static"), (0.96, "int8-static"), (0.98, "fp32"), (1.0, "fp32"), (2.0, "fp32")]
)
def test_simpler_one_wins_unless_another_is_faster_by_more_than_a_tie(
    tmp_path: Path, int8_ms: float, winner: str
) -> None:
    found = project(tmp_path, fp32=Candidate(ms=1.0), int8=Candidate(ms=int8_ms), **LATENCY).export()
    assert (found.winner, found.result.exit, found.result.reason) == (winner, 0, f"{winner}@onnxruntime-cpu wins")
    assert sorted(found.statuses.values()) == ["qualified", "winner"]
    (loser,) = (result for result in found.results.values() if result.status == "qualified")
    assert loser.reason.startswith("does not win: int8-static@onnxruntime-cpu against fp32@onnxruntime-cpu: ")
    assert loser.reason.endswith("; keeps every budget")


@pytest.mark.parametrize(
    ("budgets", "winner", "timed"),
    [
        ({"objective": "latency"}, "fp32", "batch=1"),
        ({"objective": "latency", "latency__batch": 4}, "int8-static", "batch=4"),
        ({"objective": "throughput"}, "int8-static", "best-batch"),
    ],
)
def test_objective_says_at_which_batch_two_are_timed(tmp_path: Path, budgets: Any, winner: str, timed: str) -> None:
    """FP32 answers one row sooner, INT8 many."""
    found = project(tmp_path, fp32=Candidate(row_ms=1.0), int8=Candidate(ms=1.5, row_ms=0.1), **LATENCY, **budgets)
    run = found.export()
    assert run.winner == winner
    assert f"comparison int8-static fp32 {timed}" in run.ran


@pytest.mark.parametrize(
    ("objective", "budgets", "figure"),
    [
        ("size", {}, lambda value: {"size_bytes": round(10_000 * value)}),
        ("memory", {"memory__peak_mb": 500}, lambda value: {"peak_mb": 100 * value}),
        ("cost", {"cost__per_hour": {"cpu": 0.04}}, lambda value: {"ms": value, "row_ms": value}),
    ],
)
def test_measured_objective_is_compared_without_timing(
    tmp_path: Path, objective: str, budgets: Any, figure: Any
) -> None:
    for value, winner in ((0.9, "int8-static"), (0.98, "fp32"), (1.2, "fp32")):
        fp32, int8 = Candidate(**figure(1.0)), Candidate(**figure(value))
        run = project(tmp_path, fp32=fp32, int8=int8, objective=objective, **budgets).export(reuse=False)
        assert run.winner == winner, value
        assert not [stage for stage in run.ran if stage.startswith("comparison int8-static fp32")]
        assert "a difference must clear 3%" in run.results["fp32" if winner != "fp32" else "int8-static"].reason


def three(folder: Path, fp32: float, dynamic: float, static: float) -> Project:
    found = {
        "fp32": Candidate(ms=fp32),
        "int8-dynamic": Candidate(ms=dynamic),
        "int8-static": Candidate(ms=static),
    }
    return Project(folder, FakeStages(found), precisions=list(found), **LATENCY)


@pytest.mark.parametrize(
    ("ms", "winner", "timed"),
    [
        ((3.0, 2.0, 1.0), "int8-static", ["int8-dynamic fp32", "int8-static int8-dynamic"]),
        ((3.0, 1.0, 2.0), "int8-dynamic", ["int8-dynamic fp32", "int8-static int8-dynamic"]),
        ((1.0, 2.0, 0.5), "int8-static", ["int8-dynamic fp32", "int8-static fp32"]),
        ((1.0, 2.0, 3.0), "fp32", ["int8-dynamic fp32", "int8-static fp32"]),
    ],
)
def test_each_is_compared_with_the_best_so_far(tmp_path: Path, ms: Any, winner: str, timed: list[str]) -> None:
    run = three(tmp_path, *ms).export()
    assert run.winner == winner
    pairs = [f"comparison {pair} batch=1" for pair in timed]
    assert [stage for stage in run.ran if stage in pairs or stage.endswith("fp32 batch=1")][1:] == pairs
    assert list(run.statuses.values()).count("qualified") == 2
    assert all(
        result.reason.startswith("does not win: ")
        for result in run.results.values()
        if result.name != winner + "@onnxruntime-cpu"
    )


def test_one_that_lost_a_budget_is_compared_with_none(tmp_path: Path) -> None:
    run = project(tmp_path, fp32=SLOW, int8=Candidate(ms=1.0, wrong=0.2), **LATENCY).export()
    assert (run.winner, run.statuses["int8-static"]) == ("fp32", "screened-out")
    assert "comparison int8-static fp32 batch=1" not in run.ran


def test_two_that_break_side_by_side_are_tied_where_neither_breaks_alone(tmp_path: Path) -> None:
    stages = FakeStages({"fp32": SLOW, "int8-static": FAST}, clashes=[frozenset(("fp32", "int8-static"))])
    run = Project(tmp_path, stages, **LATENCY).export()
    assert run.winner == "fp32"
    assert run.ran.count("comparison fp32 fp32 batch=1") == 2  # the machine's own noise, and alone
    assert run.ran.count("comparison int8-static int8-static batch=1") == 1
    assert "a tie, since they break when they are timed side by side" in run.results["int8-static"].reason
    assert "int8-static@onnxruntime-cpu against fp32@onnxruntime-cpu: they clash" in run.shown


def test_one_that_breaks_with_another_and_alone_is_out(tmp_path: Path) -> None:
    broken = Candidate(ms=1.0, breaks={"comparison batch=1": "boom"})
    run = project(tmp_path, fp32=SLOW, int8=broken, **LATENCY).export()
    assert (run.winner, run.statuses["int8-static"], run.results["int8-static"].reason) == ("fp32", "failed", "boom")


def test_pair_that_clashes_does_not_keep_a_third_from_winning(tmp_path: Path) -> None:
    found = three(tmp_path, 3.0, 2.0, 1.0)
    found.stages.clashes = {frozenset(("fp32", "int8-dynamic"))}
    run = found.export()
    assert run.winner == "int8-static"
    assert "comparison int8-static fp32 batch=1" in run.ran


def test_noise_is_measured_with_the_next_where_the_simplest_cannot_be_timed(tmp_path: Path) -> None:
    broken = Candidate(breaks={"comparison batch=1": ProcessError("hung")})
    run = project(tmp_path, fp32=broken, int8=FAST, **LATENCY).export()
    assert (run.winner, run.results["fp32"].status, run.results["fp32"].reason) == ("int8-static", "failed", "hung")
    assert "comparison int8-static int8-static batch=1" in run.ran


def test_noise_is_measured_with_one_that_is_still_in(tmp_path: Path) -> None:
    large = Candidate(size_bytes=2_000_001)
    run = project(tmp_path, fp32=large, int8=FAST, size__mb=2.0, **LATENCY).export()
    assert [stage for stage in run.ran if stage.endswith("batch=1")] == ["comparison int8-static int8-static batch=1"]


# The load test, which only the best takes.


def test_only_the_best_takes_the_load_test(tmp_path: Path) -> None:
    run = project(tmp_path, fp32=SLOW, int8=FAST, **LOAD).export()
    assert run.winner == "int8-static"
    assert [stage for stage in run.ran if stage.startswith(("load", "curve"))] == [
        "curve int8-static",
        "load int8-static",
    ]
    assert run.statuses["fp32"] == "inconclusive"
    assert run.results["fp32"].reason.endswith("; qualified so far; throughput is measured for the best only")


@pytest.mark.parametrize(
    ("int8", "status"),
    [
        (Candidate(load_ms=50.0), "over-budget"),
        (Candidate(lost=200), "inconclusive"),
        (Candidate(breaks={"load": "boom"}), "failed"),
    ],
)
def test_next_one_wins_where_the_best_fails_its_load_test(tmp_path: Path, int8: Candidate, status: str) -> None:
    run = project(tmp_path, fp32=SLOW, int8=int8, **LOAD).export()
    assert (run.winner, run.result.exit, run.statuses["int8-static"]) == ("fp32", 0, status)
    assert [stage for stage in run.ran if stage.startswith("load")] == ["load int8-static", "load fp32"]


def test_none_wins_where_all_fail_their_load_test(tmp_path: Path) -> None:
    slow = Candidate(load_ms=50.0)
    run = project(tmp_path, fp32=slow, int8=slow, **LOAD).export()
    assert (run.winner, run.result.exit) == (None, 1)
    assert run.result.reason == "none of 2 candidates keeps all 4 budgets: 2 over-budget"


# None left.


@pytest.mark.parametrize(
    ("fp32", "int8", "code", "text"),
    [
        (Candidate(ms=9.0), Candidate(ms=9.0), 1, "2 over-budget"),
        (Candidate(breaks={"build": "no"}), Candidate(breaks={"latency": "no"}), 1, "2 failed"),
        (Candidate(ms=9.0), Candidate(wrong=0.05), 3, "1 over-budget, 1 inconclusive"),
        (Candidate(ms=30.0), Candidate(wrong=0.3), 1, "2 screened-out"),
    ],
)
def test_no_candidate_left(tmp_path: Path, fp32: Candidate, int8: Candidate, code: int, text: str) -> None:
    found = project(tmp_path, fp32=fp32, int8=int8, **LATENCY)
    run = found.export()
    assert (run.winner, run.result.exit) == (None, code)
    assert run.result.reason == f"none of 2 candidates keeps all 2 budgets: {text}"
    assert found.registry.versions("tiny") == []
    assert not {"layouts", "golden", "curve"} & run.stages
