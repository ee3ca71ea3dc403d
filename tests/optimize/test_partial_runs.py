"""`--quick` and `--build-only`: where they stop, what they say, and that they publish nothing."""

import importlib.util
from pathlib import Path

import pytest

from tests.optimize.fake_exports import MODEL, project
from tests.optimize.fake_stages import Candidate

BUDGETS = {"latency__p99_ms": 8.0, "memory__peak_mb": 500.0}
NO_BUILD = Candidate(breaks={"build": "boom"})


def test_quick_run_stops_after_the_screens(tmp_path: Path) -> None:
    found = project(tmp_path, **BUDGETS)
    run = found.export(quick=True)
    assert run.stages == {"convert", "build", "screen", "answers", "judge"}
    assert {call.detail for call in run.calls if call.stage == "judge"} == {("screen",)}
    assert run.statuses == {"fp32": "inconclusive", "int8-static": "inconclusive"}
    assert (run.result.exit, run.winner, run.result.release) == (3, None, False)
    assert run.result.reason == "2 inconclusive, by the screens alone: export without --quick to choose the winner"
    assert found.registry.versions(MODEL) == []


def test_quick_run_with_nothing_left_to_measure_still_chooses_none(tmp_path: Path) -> None:
    run = project(tmp_path, accuracy__max_drop=None, size__mb=1.0).export(quick=True)
    assert run.statuses == {"fp32": "qualified", "int8-static": "qualified"}
    assert (run.result.exit, run.winner) == (3, None)
    assert run.result.reason.startswith("2 qualified, by the screens alone")


@pytest.mark.parametrize(
    ("candidate", "status"),
    [(Candidate(ms=25.0), "screened-out"), (NO_BUILD, "failed"), (Candidate(wrong=0.3), "screened-out")],
)
def test_quick_run_in_which_no_candidate_comes_through(tmp_path: Path, candidate: Candidate, status: str) -> None:
    run = project(tmp_path, fp32=candidate, int8=candidate, **BUDGETS).export(quick=True)
    assert (run.result.exit, run.statuses) == (1, {"fp32": status, "int8-static": status})
    assert run.result.reason == f"none of 2 candidates keeps all 3 budgets: 2 {status}"


def test_full_run_goes_on_from_a_quick_one(tmp_path: Path) -> None:
    found = project(tmp_path, **BUDGETS)
    found.export(quick=True)
    run = found.export()
    assert run.winner == "fp32"
    assert not {"convert", "build", "screen"} & run.stages


def test_run_that_only_builds_measures_nothing(tmp_path: Path) -> None:
    found = project(tmp_path, **BUDGETS)
    run = found.export(build_only=True)
    assert run.ran == ["convert", "build fp32", "build int8-static"]
    assert run.statuses == {"fp32": "built", "int8-static": "built"}
    assert {result.reason for result in run.results.values()} == {"built, not measured"}
    assert (run.result.exit, run.winner, run.result.release) == (0, None, False)
    assert run.result.reason == "2 built: nothing was judged, export without --build-only to choose the winner"
    assert found.registry.versions(MODEL) == []
    assert all(result.artifact is not None for result in run.results.values())


def test_run_that_only_builds_is_fine_where_something_was_built(tmp_path: Path) -> None:
    run = project(tmp_path, int8=NO_BUILD, **BUDGETS).export(build_only=True)
    assert (run.result.exit, run.statuses) == (0, {"fp32": "built", "int8-static": "failed"})
    assert run.results["int8-static"].reason == "boom"


def test_run_that_only_builds_fails_where_nothing_was_built(tmp_path: Path) -> None:
    run = project(tmp_path, fp32=NO_BUILD, int8=NO_BUILD, **BUDGETS).export(build_only=True)
    assert run.result.exit == 1


def test_what_does_not_apply_says_why(tmp_path: Path) -> None:
    run = project(tmp_path, targets=["cuda"], **BUDGETS).export()
    assert (run.result.exit, run.statuses) == (1, {"fp32": "n/a", "int8-static": "n/a"})
    assert run.result.reason == "none of 2 candidates keeps all 3 budgets: 2 n/a"


def test_engines_are_built_and_never_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    budgets = BUDGETS | {"targets": ["cpu", "tensorrt-rtx"], "compute_capabilities": ["89"], "precisions": ["fp32"]}
    found = project(tmp_path, **budgets)
    run = found.export()
    assert [(trial.name, trial.status) for trial in run.result.candidates[1:]] == [
        ("fp32@onnxruntime-cpu", "winner"), ("fp32@tensorrt-rtx", "built")
    ]  # fmt: skip
    artifact = run.result.candidates[2].artifact
    assert artifact is not None
    assert artifact.format == "tensorrt-rtx"
    assert run.ran.count("build fp32") == 2
    assert [stage for stage in run.ran if stage.startswith("screen fp32")] == ["screen fp32 threads=1"]


def test_full_run_says_what_is_ahead_and_a_quick_one_does_not(tmp_path: Path) -> None:
    found = project(tmp_path, **BUDGETS)
    assert any(line.startswith("ahead: build and screen 2 candidates") for line in found.export().shown)
    assert not any(line.startswith("ahead: ") for line in found.export(quick=True).shown)
