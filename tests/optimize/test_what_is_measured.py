"""What each stage measures of a candidate, in which order, and where it stops."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from optimize.budgets import Dim
from tests.optimize.fake_exports import Run, project
from tests.optimize.fake_stages import SIGNATURE, Candidate

LATENCY = {"latency__p99_ms": 8.0}
ONE = {"precisions": ["fp32"]}


def one(folder: Path, candidate: Candidate, **budgets: Any) -> Run:
    """An export of FP32 alone."""
    return project(folder, fp32=candidate, **ONE, **budgets).export()


def test_whole_export_in_order(tmp_path: Path) -> None:
    run = one(
        tmp_path,
        Candidate(),
        data="m.py:samples",
        preprocess="m.py:prepare",
        memory__peak_mb=200.0,
        throughput__qps=100.0,
        speed__min_speedup=1.1,
        cost__per_hour={"cpu": 0.04},
        size__mb=1.0,
        **LATENCY,
    )
    assert run.ran == [
        "code",
        "convert",
        "build fp32",
        "screen source threads=1",
        "screen fp32 threads=1",
        "answers source screen threads=2",
        "answers fp32 screen",
        "judge fp32 screen",
        "comparison fp32 fp32 batch=1",
        *["memory fp32"] * 3,
        "answers source selection threads=2",
        "answers fp32 selection",
        "judge fp32 selection",
        "latency fp32 408",
        "answers source confirmation threads=2",
        "answers fp32 confirmation",
        "judge fp32 confirmation",
        "answers fp32 screen alone",
        "changed fp32",
        *["latency fp32 408"] * 5,
        "end-to-end fp32 408",
        "comparison fp32 source best-batch",
        "layouts fp32",
        "golden fp32",
        "curve fp32",
        "load fp32",
        "capacity fp32",
    ]


def test_what_is_not_budgeted_is_not_measured_but_for_what_the_report_shows(tmp_path: Path) -> None:
    run = one(tmp_path, Candidate())
    assert run.stages == {
        "convert", "build", "screen", "answers", "judge", "latency", "changed", "comparison", "layouts", "golden", "curve"
    }  # fmt: skip
    assert [stage for stage in run.ran if stage.startswith(("latency", "comparison"))] == [
        "latency fp32 408", "comparison fp32 source best-batch"
    ]  # fmt: skip


# The screen.


def test_too_large_a_file_is_measured_no_further(tmp_path: Path) -> None:
    run = project(tmp_path, int8=Candidate(size_bytes=2_000_001), size__mb=2.0).export()
    assert [stage for stage in run.ran if "int8-static" in stage] == ["build int8-static"]
    assert run.results["int8-static"].reason == "size.mb is 2, 1e-06 over its limit of 2"
    just = project(tmp_path, int8=Candidate(size_bytes=2_000_000), size__mb=2.0).export(reuse=False)
    assert just.verdict("int8-static", "size.mb") == "PASS"


@pytest.mark.parametrize(("key", "ms", "stopped"), [("p50", 3.05, True), ("p50", 2.95, False), ("p99", 3.05, True)])
def test_candidate_far_over_its_latency_stops_at_the_screen(tmp_path: Path, key: str, ms: float, stopped: bool) -> None:
    run = one(tmp_path, Candidate(ms=ms), **{f"latency__{key}_ms": 1.0})
    assert run.statuses["fp32"] == ("screened-out" if stopped else "over-budget")
    assert ("answers fp32 screen" in run.ran) != stopped
    if stopped:
        assert run.results["fp32"].reason == f"median {ms:g} ms of 20 calls, over 3 times latency.{key}_ms = 1"


def test_candidate_that_loses_answers_stops_at_the_screen(tmp_path: Path) -> None:
    run = one(tmp_path, Candidate(wrong=0.3), memory__peak_mb=200.0)
    assert run.ran[-1] == "judge fp32 screen"
    assert run.results["fp32"].reason.startswith("accuracy.max_drop in the screen: drop of 30.08 points on 256 samples")


@pytest.mark.parametrize(
    ("ms", "gain", "tried", "threads"),
    [
        (0.7, 2.0, [1], 1),  # roomy with one thread
        (0.8, 2.0, [1, 2], 2),  # roomy with two
        (1.6, 1.15, [1, 2], 2),  # too slow either way: the faster, where the second thread is worth it
        (1.6, 1.05, [1, 2], 1),  # where it is not
    ],
)
def test_as_few_threads_as_leave_latency_room(
    tmp_path: Path, ms: float, gain: float, tried: list[int], threads: int
) -> None:
    run = one(tmp_path, Candidate(ms=ms, threads_gain=gain), latency__p50_ms=1.0, latency__p99_ms=9.0)
    screens = [stage for stage in run.ran if stage.startswith("screen fp32")]
    assert screens == [f"screen fp32 threads={count}" for count in tried]
    artifact = run.results["fp32"].artifact
    assert artifact is not None
    assert artifact.options.threads == threads
    assert run.measured("fp32", "screen.p50_ms") == pytest.approx(ms / (gain if threads == 2 else 1))


def test_source_is_timed_with_the_candidates_own_threads(tmp_path: Path) -> None:
    run = one(tmp_path, Candidate(ms=0.9, threads_gain=2.0), latency__p99_ms=1.0)
    assert "comparison fp32 source best-batch threads=2-2" in run.ran
    assert run.results["fp32"].measured("speed.rows_per_s").method == "8 rows per call on 2 threads"  # type: ignore[union-attr]


# Memory, latency and accuracy.


@pytest.mark.parametrize(("limit", "verdict"), [(100.0, "PASS"), (99.5, "FAIL")])
def test_memory_is_the_highest_of_three_processes(tmp_path: Path, limit: float, verdict: str) -> None:
    run = one(tmp_path, Candidate(peak_mb=100.0), memory__peak_mb=limit)
    assert run.ran.count("memory fp32") == 3
    assert run.verdict("fp32", "memory.peak_mb") == verdict
    assert run.measured("fp32", "memory.peak_mb") == 100.0
    found = run.results["fp32"].measured("memory.peak_mb")
    assert found is not None
    assert (found.low, found.high, found.n) == (98.0, 100.0, 3)
    assert ("answers fp32 selection" in run.ran) == (verdict == "PASS")


def test_latency_is_looked_at_until_it_is_decided(tmp_path: Path) -> None:
    run = one(tmp_path, Candidate(slow=0.01), **LATENCY)
    latencies = [stage for stage in run.ran if stage.startswith("latency")]
    assert latencies == [
        "latency fp32 408", "latency fp32 820", "latency fp32 2772", *["latency fp32 408"] * 5, *["latency fp32 1228"] * 5
    ]  # fmt: skip
    assert (run.statuses["fp32"], run.result.exit) == ("inconclusive", 3)
    assert run.results["fp32"].reason.startswith("latency.p99_ms is undecided after 6,140 samples")


def test_latency_over_its_limit_costs_one_look(tmp_path: Path) -> None:
    run = one(tmp_path, Candidate(ms=9.0), **LATENCY)
    assert [stage for stage in run.ran if stage.startswith("latency")] == ["latency fp32 408"]
    assert run.ran[-1] == "latency fp32 408"
    assert run.statuses["fp32"] == "over-budget"


def test_evidence_names_an_unstable_warm_up(tmp_path: Path) -> None:
    run = one(tmp_path, Candidate(unstable=True), **LATENCY)
    (found,) = (found for found in run.results["fp32"].verdicts if found.budget == "latency.p99_ms")
    assert found.evidence.endswith("; unstable: latency did not settle in the warm-up")


@pytest.mark.parametrize(("noise", "verdict"), [(0.0, "PASS"), (0.05, "INCONCLUSIVE")])
def test_limit_is_moved_by_the_machines_own_noise(tmp_path: Path, noise: float, verdict: str) -> None:
    found = project(tmp_path, latency__p50_ms=1.03, **ONE)
    found.stages.noise = noise
    assert found.export().verdict("fp32", "latency.p50_ms") == verdict


def test_verdict_on_accuracy_comes_from_the_confirmation_split(tmp_path: Path) -> None:
    found = project(tmp_path, fp32=Candidate(wrong=0.01), accuracy__min_agreement=0.9, **ONE)
    found.stages.rows |= {"confirmation": 900}
    run = found.export()
    for key, observed in (("accuracy.max_drop", 0.01), ("accuracy.min_agreement", 0.99)):
        (verdict,) = (found for found in run.results["fp32"].verdicts if found.budget == key)
        assert (verdict.n, verdict.observed, verdict.verdict) == (900, pytest.approx(observed), "PASS")
    assert run.results["fp32"].flipped == tuple(range(9))


def test_candidate_that_loses_answers_in_the_selection_split_is_not_timed(tmp_path: Path) -> None:
    run = one(tmp_path, Candidate(wrong=0.07), **LATENCY)
    assert run.ran[-1] == "judge fp32 selection"
    assert run.statuses["fp32"] == "over-budget"


def test_answers_that_depend_on_their_batch_are_counted(tmp_path: Path) -> None:
    run = one(tmp_path, Candidate(mixed=0.25))
    assert run.measured("fp32", "accuracy.batch_changed") == 0.25


def test_model_that_takes_one_row_at_a_time_is_not_run_on_batches(tmp_path: Path) -> None:
    found = project(tmp_path, **ONE)
    found.stages.signature = msgspec.structs.replace(SIGNATURE, dims={"batch": Dim(1, 1, 1)})
    run = found.export()
    assert run.winner == "fp32"
    assert "answers fp32 screen alone" not in run.ran


def test_samples_without_labels_are_judged_by_agreement(tmp_path: Path) -> None:
    found = project(tmp_path, accuracy__max_drop=None, accuracy__min_agreement=0.9, **ONE)
    found.stages.labelled = False
    result = found.export().results["fp32"]
    assert [verdict.budget for verdict in result.verdicts] == ["accuracy.min_agreement"]
    assert result.measured("accuracy.max_drop") is None


# Speed, cost and load.


@pytest.mark.parametrize(("limit", "verdict"), [(1.9, "PASS"), (2.1, "FAIL")])
def test_speed_up_is_against_the_source_at_the_best_batch(tmp_path: Path, limit: float, verdict: str) -> None:
    slower = Candidate(ms=2.0, row_ms=2.0)
    run = project(
        tmp_path, fp32=Candidate(ms=1.0, row_ms=1.0), of_source=slower, speed__min_speedup=limit, **ONE
    ).export()
    assert run.verdict("fp32", "speed.min_speedup") == verdict
    assert run.measured("fp32", "speed.min_speedup") == pytest.approx(2.0)
    assert run.measured("fp32", "speed.rows_per_s") == pytest.approx(1000.0)


@pytest.mark.parametrize(("most", "verdict"), [(0.012, "PASS"), (0.010, "FAIL")])
def test_cost_is_of_the_cores_that_are_held(tmp_path: Path, most: float, verdict: str) -> None:
    budgets = {"cost__per_hour": {"cpu": 0.04}, "cost__max_per_million": most}
    run = one(tmp_path, Candidate(ms=1.0, row_ms=1.0), **budgets)
    assert run.measured("fp32", "cost.per_million") == pytest.approx(0.04 / 3600 * 1000)
    assert run.verdict("fp32", "cost.max_per_million") == verdict


def test_load_test_may_last_as_long_as_its_schedule(tmp_path: Path) -> None:
    found = project(tmp_path, throughput__qps=100.0, **ONE)
    run = found.export()
    assert found.stages.allowed_s == [16_200 / 100]
    assert run.measured("fp32", "throughput.capacity_qps") == 300.0


def test_lost_requests_count_against_the_rate(tmp_path: Path) -> None:
    run = one(tmp_path, Candidate(lost=16_000), throughput__qps=100.0, throughput__p99_ms=10.0)
    assert (run.verdict("fp32", "throughput.qps"), run.verdict("fp32", "throughput.p99_ms")) == ("FAIL", "FAIL")
    assert (run.result.exit, run.statuses["fp32"]) == (1, "over-budget")
