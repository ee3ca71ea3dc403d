"""A candidate that breaks at a stage costs only itself; what breaks for all of them ends the run."""

import errno
from pathlib import Path
from typing import Any

import pytest

from optimize.errors import ArtifactError, CandidateError, ProcessError, ProveserveError, SourceError
from tests.optimize.fake_exports import project
from tests.optimize.fake_stages import Candidate

EVERYTHING = {
    "data": "m.py:samples",
    "preprocess": "m.py:prepare",
    "latency__p99_ms": 8.0,
    "memory__peak_mb": 500.0,
    "throughput__qps": 100.0,
    "cost__per_hour": {"cpu": 0.04},
}
STAGES = [
    "build",
    "screen threads=1",
    "answers screen",
    "judge screen",
    "memory",
    "answers selection",
    "judge selection",
    "latency 408",
    "answers confirmation",
    "judge confirmation",
    "answers alone",
    "changed",
    "end-to-end",
    "comparison source",
    "layouts",
    "golden",
    "curve",
    "load",
    "capacity",
]


@pytest.mark.parametrize("stage", STAGES)
def test_one_that_breaks_at_a_stage_costs_only_itself(tmp_path: Path, stage: str) -> None:
    """The better one breaks, at whatever stage, and the other is published as if it were the only one."""
    broken = Candidate(ms=1.0, breaks={stage: "boom"})
    found = project(tmp_path, fp32=Candidate(ms=2.0), int8=broken, **EVERYTHING)
    run = found.export()
    assert (run.results["int8-static"].status, run.results["int8-static"].reason) == ("failed", "boom")
    assert (run.winner, run.result.exit) == ("fp32", 0)
    assert found.manifest().candidate == "fp32@onnxruntime-cpu"
    assert [result.status for result in found.manifest().candidates] == ["not-measured", "winner", "failed"]
    assert any("int8-static@onnxruntime-cpu is out: boom" in line or "failed: boom" in line for line in run.shown)


def test_the_list_of_stages_is_complete(tmp_path: Path) -> None:
    """Each stage of a single candidate is in the list above."""
    found = project(tmp_path, **EVERYTHING).export()
    asked = {call.stage for call in found.calls if "int8-static" in call.names}
    assert asked | {"layouts", "golden", "curve", "load", "capacity"} == {stage.split()[0] for stage in STAGES}


def test_broken_one_goes_through_no_further_stage(tmp_path: Path) -> None:
    broken = Candidate(breaks={"answers screen": "boom"})
    ran = project(tmp_path, int8=broken, **EVERYTHING).export().ran
    mine = [stage for stage in ran if "int8-static" in stage]
    assert mine == ["build int8-static", "screen int8-static threads=1", "answers int8-static screen"]


@pytest.mark.parametrize(("error", "again"), [("boom", False), (ProcessError("killed"), True)])
def test_failure_is_remembered_but_not_the_death_of_a_process(
    tmp_path: Path, error: str | Exception, again: bool
) -> None:
    found = project(tmp_path, int8=Candidate(breaks={"memory": error}), memory__peak_mb=500.0)
    assert found.export().statuses["int8-static"] == "failed"
    found.stages.found["int8-static"] = Candidate()
    run = found.export()
    assert ("memory int8-static" in run.ran) == again
    assert run.statuses["int8-static"] == ("qualified" if again else "failed")


def test_build_that_failed_is_tried_again(tmp_path: Path) -> None:
    found = project(tmp_path, int8=Candidate(ms=0.5, breaks={"build": "boom"}), latency__p99_ms=8.0)
    assert found.export().winner == "fp32"
    found.stages.found["int8-static"] = Candidate(ms=0.5)
    assert found.export().winner == "int8-static"


# What is wrong with the source or the run itself.


@pytest.mark.parametrize(
    ("stage", "error", "code", "text"),
    [
        ("read", SourceError("samples: no such file"), 2, "samples: no such file"),
        ("read", CandidateError("boom"), 2, "tiny.onnx: boom"),
        ("convert", CandidateError("boom"), 2, "tiny.onnx: boom"),
        ("convert", ProcessError("killed"), 2, "tiny.onnx: killed"),
        ("screen", CandidateError("answers NaN"), 2, "tiny.onnx: the source model itself answers NaN"),
        ("build", ArtifactError("the disk is full"), 4, "the disk is full"),
        ("read", ProveserveError("the disk is full"), 4, "the disk is full"),
        ("screen", OSError(errno.EACCES, "denied"), 4, "a file cannot be read or written: [Errno 13] denied"),
    ],
)
def test_run_ends_with_what_the_user_must_fix_or_what_broke(
    tmp_path: Path, stage: str, error: Exception, code: int, text: str
) -> None:
    source = Candidate(breaks={stage: error} if stage != "build" else {})
    fp32 = Candidate(breaks={stage: error} if stage == "build" else {})
    found = project(tmp_path, of_source=source, fp32=fp32)
    run = found.export()
    assert (run.result.exit, run.result.reason, run.result.candidates, run.winner) == (code, text, (), None)
    assert found.registry.versions("tiny") == []


def test_damaged_build_breaks_the_run(tmp_path: Path) -> None:
    found = project(tmp_path)
    found.export()
    for record in found.folder.glob("artifacts/.cache/built/*/record.json"):
        record.write_text("{")
    run = found.export()
    assert run.result.exit == 4
    assert "was damaged, or built by another release" in run.result.reason


def test_requests_of_a_size_that_the_model_does_not_take_are_refused(tmp_path: Path) -> None:
    run = project(tmp_path, dims__batch={"max": 20}, latency__batch=16).export()
    assert (run.result.exit, run.stages) == (2, {"convert"})


def test_samples_are_not_needed(tmp_path: Path) -> None:
    found = project(
        tmp_path, data=None, accuracy__max_drop=None, latency__p99_ms=8.0, precisions=["fp32", "int8-dynamic"]
    )
    found.stages.rows = {}
    run: Any = found.export()
    assert run.winner == "fp32"
    assert not {"answers", "judge", "changed"} & run.stages
