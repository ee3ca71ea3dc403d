"""What a run takes from earlier ones, and what it measures again: exactly what depends on what was changed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from optimize.budgets import Dim
from tests.optimize.fake_exports import Project, Run, project
from tests.optimize.fake_stages import MACHINE, SIGNATURE, STAGE_S, TOOLS, Candidate

FULL: dict[str, Any] = {
    "source": "m.py:factory",
    "data": "m.py:samples",
    "preprocess": "m.py:prepare",
    "inputs.x": {"dtype": "float32", "shape": ["batch", 4]},
    "accuracy__min_agreement": 0.8,
    "latency__p99_ms": 20.0,
    "memory__peak_mb": 500.0,
    "throughput__qps": 100.0,
    "throughput__p99_ms": 10.0,
    "size__mb": 1.0,
    "speed__min_speedup": 1.1,
    "cost__per_hour": {"cpu": 0.04},
    "cost__max_per_million": 1.0,
}
CONVERTED = {"convert", "build", "golden", "code"}
OF_ANY_BUDGET = {
    "screen", "answers", "judge", "memory", "latency", "changed", "end-to-end", "comparison", "layouts", "curve", "load", "capacity"
}  # fmt: skip
ALL = CONVERTED | OF_ANY_BUDGET
# The source is converted, screened, answers, and is timed against each candidate; the candidates' own figures stay.
OF_THE_SOURCE = {"convert", "screen", "answers", "judge", "comparison"}
OF_PREPROCESS = {"code", "end-to-end"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Run]:
    """A project that was exported once, with every budget."""
    found = _project(tmp_path_factory.mktemp("first") / "project")
    found.folder.mkdir()
    return found, found.export()


@pytest.fixture
def exported(first: tuple[Project, Run], tmp_path: Path) -> Project:
    """A copy of it, registry and cache included, for a test to change."""
    return _project(Path(shutil.copytree(first[0].folder, tmp_path / "project")))


def _project(folder: Path) -> Project:
    return project(folder, fp32=Candidate(ms=2.0), int8=Candidate(wrong=0.005), **FULL)


def test_first_run_goes_through_every_stage(first: tuple[Project, Run]) -> None:
    assert first[1].stages == ALL


def test_second_run_measures_nothing_and_finds_the_same(exported: Project, first: tuple[Project, Run]) -> None:
    run = exported.export()
    assert run.ran == []
    assert run.result.candidates == first[1].result.candidates
    assert (run.winner, run.version) == ("int8-static", 1)


def test_source_and_samples_are_read_in_every_run(exported: Project) -> None:
    assert [str(call) for call in exported.export().calls] == ["read"]


def test_result_says_how_long_each_stage_took_and_what_was_reused(
    exported: Project, first: tuple[Project, Run]
) -> None:
    earlier, later = first[1].result, exported.export().result
    assert {(stage.seconds, stage.cached) for stage in earlier.stages} == {(STAGE_S, False), (0.0, True)}
    assert {(stage.seconds, stage.cached) for stage in later.stages} == {(0.0, True)}
    assert [stage.stage for stage in later.stages] == [stage.stage for stage in earlier.stages]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"accuracy__max_drop": 0.06}, {"judge", "changed"}),
        ({"accuracy__min_agreement": 0.81}, {"judge", "changed"}),
        ({"accuracy__confidence": 0.9}, {"judge", "changed"}),
        ({"latency__p99_ms": 21.0}, set()),
        ({"latency__p50_ms": 20.0}, set()),
        ({"latency__batch": 2}, {"screen", "latency", "comparison", "load", "capacity"}),
        ({"memory__peak_mb": 501.0}, set()),
        ({"throughput__qps": 101.0}, {"load", "capacity"}),
        ({"throughput__p99_ms": 11.0}, {"load", "capacity"}),
        ({"size__mb": 2.0}, set()),
        ({"speed__min_speedup": 1.2}, set()),
        ({"cost__per_hour": {"cpu": 0.05}}, set()),
        ({"cost__max_per_million": 2.0}, set()),
        ({"objective": "throughput"}, {"comparison"}),
        ({"objective": "size"}, {"golden", "layouts", "curve", "load", "capacity"}),  # which the other wins
        ({"batch_invariant": True}, set()),
        ({"preprocess": "m.py:other"}, {"code", "end-to-end"}),
        ({"dims__batch": {"max": 9}}, {"convert"}),
        ({"inputs.x": {"dtype": "float32", "shape": ["batch", 4], "pad": 0.0}}, OF_THE_SOURCE),
        ({"outputs.logits": {"shape": ["batch", 3]}}, OF_THE_SOURCE),
        ({"targets": ["cpu", "cuda"]}, set()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_change_of_budgets_measures_what_depends_on_it(exported: Project, change: Any, again: set[str]) -> None:
    exported.budget(**change)
    assert exported.export().stages == again


def test_further_precision_is_all_that_is_measured(exported: Project) -> None:
    exported.budget(precisions=["fp32", "fp16", "int8-static"])
    run = exported.export()
    assert run.stages >= {"build", "screen", "answers", "judge", "memory", "latency"}
    assert all("fp16" in call.names for call in run.calls if call.stage != "read")


def new_source(found: Project) -> None:
    found.stages.source = "6" * 64


def new_source_and_graph(found: Project) -> None:
    found.stages.source, found.stages.graph = "6" * 64, "another graph"


def new_weights(found: Project) -> None:
    """In a file of their own: the graph file stays the same."""
    new_source(found)
    found.stages.weights = "other weights"


def new_data(found: Project) -> None:
    found.stages.data = "e" * 64


def new_metric(found: Project) -> None:
    found.stages.metric = "7" * 64


def new_code(found: Project) -> None:
    """Of `preprocess`: other code that makes the same inputs, since the samples stay."""
    found.stages.code = "def prepare(columns): return dict(columns)\n"


def new_signature(found: Project) -> None:
    """What a conversion finds depends on the source, so that a new one is converted."""
    new_source(found)
    found.stages.signature = msgspec.structs.replace(SIGNATURE, dims={"batch": Dim(1, 1, 16)})


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (new_source, OF_THE_SOURCE),
        (new_source_and_graph, ALL - {"code"}),
        (new_weights, OF_THE_SOURCE | {"build"}),
        (new_data, ALL),
        (new_metric, {"judge"}),
        (new_code, OF_PREPROCESS),
        (new_signature, ALL - OF_PREPROCESS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_change_of_source_or_samples_measures_what_depends_on_it(
    exported: Project, change: Callable[[Project], None], again: set[str]
) -> None:
    change(exported)
    assert exported.export().stages == again


def test_new_source_leaves_the_candidates_own_answers(exported: Project) -> None:
    new_source(exported)
    ran = exported.export().ran
    assert {stage for stage in ran if stage.startswith(("answers", "screen"))} == {
        "screen source threads=1",
        *(f"answers source {split} threads=2" for split in ("screen", "selection", "confirmation")),
    }


def test_new_data_is_measured_for_each_candidate(exported: Project) -> None:
    new_data(exported)
    ran = exported.export().ran
    stages = ("build", "screen", "memory", "latency", "end-to-end")
    for name in ("fp32", "int8-static"):
        assert {stage.split()[0] for stage in ran if name in stage} >= set(stages)


@pytest.mark.parametrize(
    "machine",
    [
        msgspec.structs.replace(MACHINE, cpu="Other"),
        msgspec.structs.replace(MACHINE, instruction_sets=()),
        msgspec.structs.replace(MACHINE, memory_mb=1),
        msgspec.structs.replace(MACHINE, devices=("GPU",)),
    ],
)
def test_another_machine_measures_again_and_builds_nothing(exported: Project, machine: Any) -> None:
    assert exported.export(machine=machine).stages == OF_ANY_BUDGET


def test_other_tools_build_and_measure_again(exported: Project) -> None:
    assert exported.export(tools=TOOLS | {"onnxruntime": "2.1"}).stages == ALL


def test_nothing_is_reused_where_the_cache_is_off(tmp_path: Path) -> None:
    found = project(tmp_path, **FULL)
    first, second = found.export(), found.export(reuse=False)
    assert second.ran == first.ran
    assert found.export().ran == []


def test_samples_of_other_contents_are_kept_apart(exported: Project) -> None:
    """Two sets of samples, each read again: nothing is measured for either."""
    new_data(exported)
    exported.export()
    exported.stages.data = "d" * 64
    assert exported.export().ran == []


def test_other_options_of_a_session_are_measured_again(tmp_path: Path) -> None:
    """The same file opened with two threads is another thing to measure, but not another one to build."""
    found = project(tmp_path, fp32=Candidate(threads_gain=2.0), precisions=["fp32"], latency__p99_ms=20.0)
    found.export()
    found.budget(latency__p99_ms=1.2)
    run = found.export()
    assert run.stages == {
        "screen",
        "answers",
        "judge",
        "latency",
        "changed",
        "comparison",
        "layouts",
        "golden",
        "curve",
    }
    assert all(
        "threads=2" in call.detail for call in run.calls if call.stage in ("screen", "latency", "curve", "layouts")
    )
