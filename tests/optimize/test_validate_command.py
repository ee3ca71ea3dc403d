"""`optimize validate`: a published version is judged again, and the judgement is kept with it."""

from pathlib import Path

import msgspec
import pytest

from tests.optimize.fake_exports import MODEL, Project, project
from tests.optimize.fake_stages import MACHINE, Candidate

ELSEWHERE = msgspec.structs.replace(MACHINE, cpu="Other CPU", cores=4)
BUDGETS = {"latency__p99_ms": 8.0, "throughput__qps": 100.0, "throughput__p99_ms": 10.0}


@pytest.fixture
def exported(tmp_path: Path) -> Project:
    """A project whose INT8 candidate is published as version 1."""
    found = project(tmp_path, fp32=Candidate(ms=2.0, row_ms=1.0), int8=Candidate(ms=1.0), **BUDGETS)
    assert found.export().version == 1
    return found


def test_version_keeps_its_budgets(exported: Project) -> None:
    run = exported.validate()
    assert (run.result.exit, run.result.reason) == (0, "int8-static@onnxruntime-cpu wins")
    assert (run.winner, run.version, run.statuses) == ("int8-static", 1, {"int8-static": "winner"})
    assert run.result.winner is not None
    assert run.result.winner.path == exported.registry.manifest_path(MODEL, 1)
    assert exported.registry.judgements(MODEL, 1) == [run.result]
    assert exported.registry.versions(MODEL) == [1]


def test_on_its_own_machine_only_the_noise_is_new(exported: Project) -> None:
    assert exported.validate().ran == ["comparison int8-static int8-static batch=1"]
    assert exported.validate().ran == []


def test_another_machine_measures_that_version_alone(exported: Project) -> None:
    run = exported.validate(machine=ELSEWHERE)
    assert run.ran == [
        "screen source threads=1",
        "screen int8-static threads=1",
        "answers source screen threads=4",
        "answers int8-static screen",
        "judge int8-static screen",
        "comparison int8-static int8-static batch=1",
        "answers source selection threads=4",
        "answers int8-static selection",
        "judge int8-static selection",
        "latency int8-static 408",
        "answers source confirmation threads=4",
        "answers int8-static confirmation",
        "judge int8-static confirmation",
        "answers int8-static screen alone",
        "changed int8-static",
        *["latency int8-static 408"] * 5,
        "comparison int8-static source best-batch",
        "curve int8-static",
        "layouts int8-static",
        "load int8-static",
        "capacity int8-static",
    ]
    assert exported.registry.measured_on(exported.manifest(), ELSEWHERE)


def test_version_that_loses_a_budget_elsewhere_is_not_measured_there(exported: Project) -> None:
    exported.stages.found["int8-static"] = Candidate(ms=9.0)
    run = exported.validate(machine=ELSEWHERE)
    assert (run.result.exit, run.winner, run.statuses) == (1, None, {"int8-static": "over-budget"})
    assert run.result.reason == "none of 1 candidate keeps all 4 budgets: 1 over-budget"
    assert not exported.registry.measured_on(exported.manifest(), ELSEWHERE)
    assert exported.registry.current(MODEL) == 1
    assert exported.registry.result(MODEL) != run.result


def test_one_judgement_is_kept_for_each_machine(exported: Project) -> None:
    here, there = exported.validate(), exported.validate(machine=ELSEWHERE)
    again = exported.validate(machine=ELSEWHERE)
    kept = exported.registry.judgements(MODEL, 1)
    assert len(kept) == 2
    assert here.result in kept
    assert again.result in kept
    assert there.result.machine == ELSEWHERE


def test_version_is_judged_with_the_threads_that_serve_it(tmp_path: Path) -> None:
    found = project(tmp_path, fp32=Candidate(threads_gain=2.0), precisions=["fp32"], latency__p99_ms=1.2)
    found.export()
    run = found.validate(machine=ELSEWHERE)
    assert [stage for stage in run.ran if stage.startswith("screen fp32")] == ["screen fp32 threads=2"]


def test_named_version_is_judged_by_the_budgets_of_today(exported: Project) -> None:
    exported.budget(precisions=["fp32"], latency__p99_ms=9.0)
    assert exported.export().version == 2
    run = exported.validate(1)
    assert (run.winner, run.version, run.result.budgets.latency.p99_ms) == ("int8-static", 1, 9.0)
    assert (exported.validate().winner, exported.registry.current(MODEL)) == ("fp32", 2)


def test_version_that_is_not_there_is_refused(exported: Project) -> None:
    run = exported.validate(7)
    assert (run.result.exit, run.result.candidates, run.ran) == (4, (), [])
    assert "no version 7" in run.result.reason


def test_damaged_version_is_refused(exported: Project) -> None:
    (exported.folder / "artifacts" / "blobs" / "sha256" / exported.manifest().digest).write_bytes(b"damaged")
    run = exported.validate()
    assert run.result.exit == 4
    assert "its bytes have digest" in run.result.reason
    Path(exported.registry.manifest_path(MODEL, 1)).write_text("{")
    run = exported.validate()
    assert run.result.exit == 4
    assert "not a manifest" in run.result.reason


def test_model_without_a_version_is_exported(tmp_path: Path) -> None:
    found = project(tmp_path, **BUDGETS)
    run = found.validate()
    assert (run.winner, run.version, found.registry.versions(MODEL)) == ("fp32", 1, [1])
    assert "build fp32" in run.ran
    assert found.registry.judgements(MODEL, 1) == []
    assert found.registry.result(MODEL) == run.result


def test_version_of_a_model_that_was_never_published_is_refused(tmp_path: Path) -> None:
    run = project(tmp_path, **BUDGETS).validate(1)
    assert (run.result.exit, run.ran) == (4, [])
