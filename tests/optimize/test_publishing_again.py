"""What is published, what a further run adds to it, and what holds when a published version is damaged."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from optimize.errors import ArtifactError
from optimize.manifest import SessionOptions, digest_of
from tests.optimize.fake_exports import MODEL, Project, project
from tests.optimize.fake_stages import MACHINE, SIGNATURE, TOOLS, Candidate

SLOW, FAST = Candidate(ms=2.0, row_ms=1.0), Candidate(ms=1.0)
LATENCY = {"latency__p99_ms": 8.0}


@pytest.fixture
def exported(tmp_path: Path) -> Project:
    """A project whose INT8 candidate is published as version 1."""
    found = project(tmp_path, fp32=SLOW, int8=FAST, **LATENCY)
    run = found.export()
    assert (run.winner, run.version) == ("int8-static", 1)
    return found


def blob(found: Project, digest: str) -> Path:
    return found.folder / "artifacts" / "blobs" / "sha256" / digest


def test_manifest_says_what_was_measured_of_the_winner(exported: Project) -> None:
    manifest, result = exported.manifest(), exported.registry.result(MODEL)
    assert result is not None
    assert manifest.candidates == result.candidates
    (winner,) = (result for result in manifest.candidates if result.status == "winner")
    assert (manifest.candidate, manifest.verdicts, manifest.curve) == (winner.name, winner.verdicts, winner.curve)
    assert [point.p50_ms for point in manifest.curve] == [1.0, 1.5, 2.5, 4.5]
    assert (manifest.source_digest, manifest.data_digest) == ("5" * 64, "d" * 64)
    assert (manifest.machine, manifest.tools, manifest.signature) == (MACHINE, TOOLS, SIGNATURE)
    assert manifest.created == result.created == "2026-01-02T03:04:05+00:00"
    assert manifest.artifact.options == SessionOptions("cpu", 1, ("SkipLayerNormFusion",))


def test_files_of_the_winner_are_in_the_registry(exported: Project) -> None:
    manifest = exported.manifest()
    assert exported.registry.model_file(manifest).read_bytes().startswith(b"int8-static\n")
    assert exported.registry.blob(manifest.golden.blob).read_text() == "answers of int8-static"
    assert (manifest.golden.count, manifest.golden.atol, manifest.golden.rtol) == (8, 1e-3, 1e-3)


def test_operating_points_are_the_fastest_layouts(tmp_path: Path) -> None:
    """Online keeps the threads that latency was measured with; bulk takes whatever answers most rows."""
    found = project(tmp_path, fp32=Candidate(threads_gain=3.0), precisions=["fp32"])
    found.export()
    online, bulk = found.manifest().online, found.manifest().bulk
    assert online is not None
    assert bulk is not None
    assert (online.threads, online.instances, online.batch) == (1, 2, 8)
    assert (bulk.threads, bulk.instances, bulk.batch) == (2, 1, 8)


def test_code_of_preprocess_is_published(tmp_path: Path) -> None:
    found = project(tmp_path, data="m.py:samples", preprocess="prep.py:prepare", **LATENCY)
    run = found.export()
    preprocessing = found.manifest().preprocessing
    assert preprocessing is not None
    assert [file.name for file in preprocessing.files] == ["prep.py"]
    assert found.registry.blob(preprocessing.files[0]).read_text().startswith("def prepare")
    assert run.measured("fp32", "end_to_end.p99_ms") > run.measured("fp32", "latency.p99_ms") + 0.9


def test_same_answer_keeps_its_version(exported: Project) -> None:
    exported.stages.clock.moment += timedelta(days=1)
    for options in ({}, {"reuse": False}):
        run = exported.export(**options)
        assert (run.version, exported.registry.versions(MODEL)) == (1, [1])
        assert not [line for line in run.shown if line.startswith("published")]


def other_data(found: Project) -> None:
    found.stages.data = "e" * 64


def other_source(found: Project) -> None:
    found.stages.source = "6" * 64


def other_graph(found: Project) -> None:
    found.stages.source, found.stages.graph = "6" * 64, "another graph"


def other_budget(found: Project) -> None:
    found.budget(latency__p99_ms=9.0)


def other_winner(found: Project) -> None:
    found.budget(precisions=["fp32"])


def other_threads(found: Project) -> None:
    found.budget(latency__p99_ms=1.2)
    found.stages.found["int8-static"] = Candidate(threads_gain=2.0)


CHANGES = [other_data, other_source, other_graph, other_budget, other_winner, other_threads]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_another_answer_is_the_next_version(exported: Project, change: Callable[[Project], None]) -> None:
    change(exported)
    run = exported.export()
    assert (run.version, exported.registry.versions(MODEL), exported.registry.current(MODEL)) == (2, [1, 2], 2)
    assert "published version 2" in run.shown
    assert exported.export().version == 2


@pytest.mark.parametrize("surroundings", [{"machine": msgspec.structs.replace(MACHINE, cores=1)}, {"tools": {}}])
def test_answer_of_another_machine_or_other_tools_is_the_next_version(exported: Project, surroundings: Any) -> None:
    assert exported.export(**surroundings).version == 2


def test_other_code_of_preprocess_is_the_next_version(tmp_path: Path) -> None:
    found = project(tmp_path, data="m.py:samples", preprocess="prep.py:prepare", **LATENCY)
    assert [found.export().version, found.export().version] == [1, 1]
    found.stages.code = "def prepare(columns): return dict(columns)\n"
    assert found.export().version == 2


def test_run_without_a_winner_publishes_nothing_and_leaves_what_is_served(exported: Project) -> None:
    exported.budget(latency__p99_ms=0.5)
    run = exported.export()
    assert (run.winner, run.result.exit, exported.registry.current(MODEL)) == (None, 1, 1)


# A damaged current version counts as none.


def test_damaged_manifest_is_followed_by_the_next_version(exported: Project) -> None:
    Path(exported.registry.manifest_path(MODEL, 1)).write_text("{")
    run = exported.export()
    assert run.version == 2
    assert any(line.startswith("the current version counts as none: ") for line in run.shown)


def test_damaged_pointer_to_the_current_version_is_replaced(exported: Project) -> None:
    (exported.folder / "artifacts" / "models" / MODEL / "current").write_text("one")
    run = exported.export()
    assert (run.version, exported.registry.current(MODEL)) == (2, 2)


def test_damaged_model_file_is_written_again(exported: Project) -> None:
    file = blob(exported, exported.manifest().digest)
    file.write_bytes(b"damaged")
    assert exported.export().version == 1
    assert digest_of(file) == exported.manifest().digest


def test_damaged_file_of_a_version_that_is_not_rebuilt_counts_as_none(exported: Project) -> None:
    """FP32 wins this time, so that nothing puts back what was damaged of version 1."""
    blob(exported, exported.manifest().digest).write_bytes(b"damaged")
    exported.budget(precisions=["fp32"], speed__max_slowdown=1.1)
    run = exported.export()
    assert (run.winner, run.version) == ("fp32", 2)
    (verdict,) = (found for found in run.results["fp32"].verdicts if found.budget == "speed.max_slowdown")
    assert (verdict.verdict, verdict.evidence) == ("PASS", "there is no current version to time it against")
    with pytest.raises(ArtifactError):
        exported.registry.model_file(exported.manifest(1))


# Compared with the current version.


def test_candidate_slower_than_the_current_version_is_over_budget(exported: Project) -> None:
    exported.budget(precisions=["fp32"], speed__max_slowdown=1.5)
    run = exported.export()
    assert "comparison fp32 int8-static best-batch" in run.ran
    assert (run.statuses["fp32"], run.result.exit, run.winner) == ("over-budget", 1, None)
    assert run.measured("fp32", "speed.max_slowdown") == pytest.approx(2.0)
    exported.budget(speed__max_slowdown=2.1)
    assert exported.export().version == 2


def test_current_version_is_not_timed_against_itself(exported: Project) -> None:
    exported.budget(precisions=["int8-static"], speed__max_slowdown=1.1)
    run = exported.export()
    assert run.ran == ["comparison int8-static int8-static batch=1"]  # which measures the machine's own noise
    (verdict,) = (found for found in run.results["int8-static"].verdicts if found.budget == "speed.max_slowdown")
    assert (verdict.verdict, verdict.evidence) == ("PASS", "this is the current version")


def test_version_that_takes_other_inputs_is_not_timed(exported: Project) -> None:
    other = msgspec.structs.replace(SIGNATURE.inputs[0], name="z")
    exported.stages.signature = msgspec.structs.replace(SIGNATURE, inputs=(other,))
    exported.stages.source = "6" * 64
    exported.budget(speed__max_slowdown=1.1)
    run = exported.export()
    assert (run.statuses["fp32"], run.version) == ("qualified", 2)
    assert "comparison fp32 int8-static best-batch" not in run.ran


# What is kept for reports.


def test_result_is_kept_in_place_of_the_earlier_one(exported: Project) -> None:
    exported.budget(latency__p99_ms=0.5)
    run = exported.export()
    assert exported.registry.result(MODEL) == run.result


@pytest.mark.parametrize("options", [{"quick": True}, {"build_only": True}])
def test_partial_result_is_kept_only_where_there_is_no_full_one(tmp_path: Path, options: Any) -> None:
    found = project(tmp_path, **LATENCY)
    partial = found.export(**options).result
    assert not partial.release
    assert found.registry.result(MODEL) == partial
    full = found.export().result
    assert full.release
    found.export(**options)
    assert found.registry.result(MODEL) == full


def test_result_that_cannot_be_kept_breaks_the_run_and_is_returned_all_the_same(tmp_path: Path) -> None:
    found = project(tmp_path, **LATENCY)
    (found.folder / "artifacts").mkdir()
    (found.folder / "artifacts" / "reports").write_text("in the way")
    run = found.export()
    assert (run.result.exit, run.winner, run.version) == (4, "fp32", 1)
    assert run.result.reason.startswith("fp32@onnxruntime-cpu wins; the outcome is not kept for reports: ")
    assert run.result.reason in run.shown
