"""`optimize export` on real candidates of a tiny classifier, as a user runs it."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from optimize import pipeline
from optimize.convert import candidate_build
from optimize.errors import ArtifactError
from optimize.execution.progress import PHASES
from optimize.manifest import Result, decode
from optimize.measure import golden, interleaved
from optimize.project import read
from optimize.registry import Registry
from optimize.runtime.golden import replay
from optimize.runtime.session import OnnxSession
from tests import exporting
from tests.e2e import saboteur
from tests.exporting import Export, budgets, cache_entries, export, project, registry, running, wait_for

ROOT = Path(__file__).parents[2]
FP32, FP16 = "fp32@onnxruntime-cpu", "fp16@onnxruntime-cpu"
INT8, DYNAMIC = "int8-static@onnxruntime-cpu", "int8-dynamic@onnxruntime-cpu"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Export]:
    """A project that was exported once: its budgets file, and what the command said."""
    budget = project(tmp_path_factory.mktemp("export") / "project")
    return budget, export(budget)


@pytest.fixture
def again(first: tuple[Path, Export], tmp_path: Path) -> Path:
    """A copy of that project, registry and cache included, to do with as one likes."""
    return Path(shutil.copytree(first[0].parent, tmp_path / "project")) / "budgets.toml"


# A winner.


def test_winner_is_published(first: tuple[Path, Export]) -> None:
    budget, found = first
    assert found.code == 0, found.stderr
    winner = found.model["winner"]
    assert winner.keys() == {"candidate", "precision", "runtime", "version", "path"}
    assert found.candidates[winner["candidate"]]["status"] == "winner"
    assert (registry(budget).versions("tiny"), registry(budget).current("tiny")) == ([1], 1)
    assert winner["path"] == registry(budget).manifest_path("tiny", 1)


def test_document_has_the_documented_keys(first: tuple[Path, Export]) -> None:
    _, found = first
    assert found.document.keys() == {"models"}
    assert found.model.keys() >= {"name", "exit", "winner", "candidates"}
    assert (found.model["name"], found.model["exit"]) == ("tiny", 0)
    assert list(found.candidates) == ["source@onnxruntime-cpu", FP32, INT8]
    for candidate in found.candidates.values():
        assert candidate.keys() == {"name", "precision", "runtime", "status", "reason", "verdicts"}
        for verdict in candidate["verdicts"]:
            assert verdict.keys() == {"budget", "limit", "observed", "low", "high", "n", "verdict"}
    assert found.candidates[FP32]["precision"] == "fp32"
    assert found.candidates[FP32]["runtime"] == "onnxruntime-cpu"
    assert {verdict["budget"] for verdict in found.candidates[FP32]["verdicts"]} == {
        "accuracy.max_drop", "accuracy.min_agreement", "size.mb"
    }  # fmt: skip


def test_verdicts_rest_on_the_confirmation_split(first: tuple[Path, Export]) -> None:
    _, found = first
    drop = found.verdict(INT8, "accuracy.max_drop")
    assert (drop["verdict"], drop["limit"]) == ("PASS", exporting.ACCURACY["max_drop"])
    assert drop["low"] <= drop["observed"] <= drop["high"] < drop["limit"]
    assert 1600 < drop["n"] < 2000  # 45 % of 4,000 rows


def test_manifest_keeps_the_contract(first: tuple[Path, Export]) -> None:
    budget, found = first
    path = Path(found.model["winner"]["path"])
    schema = json.loads((ROOT / "docs" / "manifest.schema.json").read_bytes())
    jsonschema.validate(json.loads(path.read_bytes()), schema)
    manifest = decode(path.read_bytes(), str(path))
    assert manifest.signature.max_batch == 8
    assert [point.batch for point in manifest.curve] == [1, 2, 4, 8]
    assert {candidate.name for candidate in manifest.candidates} == set(found.candidates)
    assert manifest.tools["onnxruntime"]
    store = registry(budget)
    with OnnxSession(store.model_file(manifest), manifest.artifact.options) as session:
        replay(session, store.blob(manifest.golden.blob), manifest.golden)
    assert manifest.golden.count == 8


def test_few_lines_of_progress_come_first_then_the_result_and_what_to_run_next(first: tuple[Path, Export]) -> None:
    budget, found = first
    progress, result, *rest = found.stderr.split("\n\n")
    assert [line.split()[:2] for line in progress.splitlines()] == [["tiny", name] for name in PHASES]
    headline, detail = result.splitlines()
    assert headline == f"tiny: {found.model['winner']['candidate']} wins"
    assert detail.startswith("  published as version 1; it meets all ")
    assert max(map(len, found.stderr.splitlines()[:-3])) <= 100
    assert "\x1b" not in found.stderr  # no terminal, no colours
    heading, serve, *_ = rest[-1].splitlines()
    assert heading == "Next:"
    registry = (budget.parent / "artifacts").relative_to("/")  # the folder that the command ran in
    assert serve.split("  ")[1] == f"optimize serve --registry {registry}"


def test_verbose_and_explain_have_the_evidence(first: tuple[Path, Export], again: Path) -> None:
    brief, verbose = export(again, "--explain", "fp32"), export(again, "--verbose")
    evidence = "bytes in 1 file"
    assert evidence not in first[1].stderr
    assert (brief.stderr.count(evidence), verbose.stderr.count(evidence)) == (1, len(verbose.candidates) - 1)
    assert "tiny: the ONNX graph answers as the source does" in verbose.stderr
    unknown = export(again, "--explain", "fp8")
    assert (unknown.code, unknown.model["exit"]) == (2, 0)
    assert unknown.stderr.splitlines()[-1].startswith("error: --explain fp8: no such candidate; there are ")


# A second run.


def test_second_export_measures_and_publishes_nothing(again: Path, first: tuple[Path, Export]) -> None:
    before = cache_entries(again)
    found = export(again)
    assert found.code == 0, found.stderr
    assert cache_entries(again) == before
    assert registry(again).versions("tiny") == [1]
    assert found.model["candidates"] == first[1].model["candidates"]


def test_changed_budget_is_judged_without_measuring_and_published(again: Path) -> None:
    before = cache_entries(again)
    budgets(again.parent, size__mb=0.5)
    found = export(again)
    assert found.code == 0, found.stderr
    assert cache_entries(again) == before
    store = registry(again)
    assert (store.versions("tiny"), store.current("tiny")) == ([1, 2], 2)
    assert store.load("tiny", 2).budgets.size.mb == 0.5
    assert store.load("tiny", 1).digest == store.load("tiny", 2).digest


def test_changed_accuracy_budget_judges_the_same_answers_again(again: Path) -> None:
    budgets(again.parent, accuracy__max_drop=0.04)
    forget_result(again)
    found = export(again, "--quick")
    assert found.verdict(FP32, "accuracy.max_drop")["limit"] == 0.04
    assert [stage["stage"] for stage in stages(again) if not stage["cached"]] == [
        f"{FP32}: accuracy on screen", f"{INT8}: accuracy on screen"
    ]  # fmt: skip


def kept_result(budget: Path) -> Path:
    return budget.parent / "artifacts" / "reports" / "tiny" / "result.json"


def forget_result(budget: Path) -> None:
    """So that the result of a partial run is kept."""
    kept_result(budget).unlink()


def stages(budget: Path) -> list[dict[str, Any]]:
    """The steps of the last run, as its report has them."""
    return json.loads(kept_result(budget).read_bytes())["stages"]


def test_impossible_budget_is_told_and_publishes_nothing(again: Path) -> None:
    budgets(again.parent, size__mb=0.000001)
    found = export(again)
    assert (found.code, found.model["winner"]) == (1, None)
    assert {candidate["status"] for name, candidate in found.candidates.items() if "source" not in name} == {
        "over-budget"
    }
    assert found.candidates[FP32]["reason"].startswith("size.mb is 0.002")
    assert registry(again).versions("tiny") == [1]
    assert "tiny: No candidate meets every budget" in found.stderr


def test_changed_weights_redo_the_model(again: Path) -> None:
    before = cache_entries(again)
    exporting.classifier(again.parent / "tiny.onnx", seed=5)
    found = export(again, "--quick")
    new = cache_entries(again) - before
    assert {name.split("/")[0] for name in new} == {"built", "answers", "measured"}
    assert found.model["winner"] is None
    assert registry(again).versions("tiny") == [1]


def test_quick_run_publishes_nothing_and_says_that_it_is_no_verdict(tmp_path: Path) -> None:
    budget = project(tmp_path / "project", precisions=["fp32"])
    found = export(budget, "--quick")
    assert (found.code, found.model["winner"]) == (3, None)
    assert not registry(budget).versions("tiny")
    assert "not a release verdict" in found.stderr


def test_build_only_judges_and_publishes_nothing(again: Path) -> None:
    before = cache_entries(again)
    found = export(again, "--build-only")
    assert (found.code, found.model["winner"]) == (0, None)
    assert {name: candidate["status"] for name, candidate in found.candidates.items()} == {FP32: "built", INT8: "built"}
    assert (cache_entries(again), registry(again).versions("tiny")) == (before, [1])


@pytest.mark.parametrize("partial", ["--quick", "--build-only"])
def test_partial_run_leaves_the_result_of_a_full_one_to_the_report(again: Path, partial: str) -> None:
    full = kept_result(again).read_bytes()
    export(again, partial)
    assert kept_result(again).read_bytes() == full
    for nothing in (kept_result(again).unlink, lambda: kept_result(again).write_text("{")):
        nothing()
        export(again, partial)
        assert json.loads(kept_result(again).read_bytes())["release"] is False


def test_validate_judges_the_published_version_again(again: Path) -> None:
    found = export(again, name="validate")
    assert found.code == 0, found.stderr
    assert found.model["winner"]["version"] == 1
    assert found.verdict(found.model["winner"]["candidate"], "accuracy.max_drop")["verdict"] == "PASS"
    assert registry(again).versions("tiny") == [1]
    budgets(again.parent, size__mb=0.000001)
    assert export(again, name="validate").code == 1
    missing = export(again, "--version", "7", name="validate")
    assert (missing.code, missing.model["winner"]) == (4, None)
    assert missing.model["reason"].startswith("tiny: no version 7 in")


def test_validate_of_a_missing_version_costs_its_model_alone(again: Path) -> None:
    text = again.read_text()
    again.write_text(text + text.split("\n", 1)[1].replace("models.tiny", "models.other"))
    found = export(again, "--version", "1", name="validate")
    assert {model["name"]: model["exit"] for model in found.document["models"]} == {"tiny": 0, "other": 4}


# Candidates that are not right.


def built_file(budget: Path, *, quantised: bool) -> Path:
    """The model of a candidate in the cache, which the next run takes as it finds it."""
    for record in (budget.parent / "artifacts" / ".cache" / "built").glob("*/record.json"):
        found = json.loads(record.read_bytes())
        if "changed" in found and bool(found["changed"]) == quantised:
            return record.parent / found["files"][0]
    raise AssertionError("no such candidate was built")


def perturbed(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 2:
            values = np.random.default_rng(0).permuted(values, axis=None)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def swapped(model: onnx.ModelProto) -> None:
    """Exchange classes 2 and 3, all of whose answers are wrong either way."""
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[:] = ["inner" if name == "logits" else name for name in last.output]
    order = numpy_helper.from_array(np.array([0, 1, 3, 2]), "order")
    model.graph.initializer.append(order)
    model.graph.node.append(helper.make_node("Gather", ["inner", "order"], ["logits"], axis=1))


def without_numbers(model: onnx.ModelProto) -> None:
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[:] = ["inner" if name == "logits" else name for name in last.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(np.nan, np.float32), "nan"))
    model.graph.node.append(helper.make_node("Add", ["inner", "nan"], ["logits"]))


def sabotaged(budget: Path, sabotage: Callable[[onnx.ModelProto], None]) -> Export:
    path = built_file(budget, quantised=True)
    model = onnx.load(path)
    sabotage(model)
    onnx.save(model, path)
    return export(budget, "--quick")


def test_perturbed_weights_fail_on_accuracy(again: Path) -> None:
    found = sabotaged(again, perturbed)
    drop = found.verdict(INT8, "accuracy.max_drop")
    assert drop["verdict"] == "FAIL"
    assert drop["low"] > drop["limit"]
    assert found.candidates[INT8]["status"] == "screened-out"
    assert found.candidates[INT8]["reason"].startswith("accuracy.max_drop in the screen")
    assert found.candidates[FP32]["status"] != "screened-out"


def test_flipped_answers_of_the_same_accuracy_fail_on_agreement(again: Path) -> None:
    found = sabotaged(again, swapped)
    assert found.verdict(INT8, "accuracy.max_drop")["verdict"] != "FAIL"
    assert abs(found.verdict(INT8, "accuracy.max_drop")["observed"]) < 0.03
    agreement = found.verdict(INT8, "accuracy.min_agreement")
    assert agreement["verdict"] == "FAIL"
    assert agreement["high"] < agreement["limit"]
    assert found.candidates[INT8]["reason"].startswith("accuracy.min_agreement in the screen")


def test_nan_fails_its_candidate_alone(again: Path) -> None:
    found = sabotaged(again, without_numbers)
    assert found.candidates[INT8]["status"] == "failed"
    assert found.candidates[INT8]["reason"] == "answers NaN or infinity in output 'logits' on real samples"
    assert found.candidates[FP32]["status"] != "failed"


def test_hang_abort_and_memory_cost_their_candidates_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(candidate_build, "build", saboteur.build)
    budget = project(tmp_path / "project", precisions=["fp32", "fp16", "int8-dynamic", "int8-static"])
    options = pipeline.Options(quick=True, timeout_s=15.0, memory_mb=1500)
    (result,) = pipeline.export(read(budget), options)
    found = {trial.name: (trial.status, trial.reason) for trial in result.candidates}
    assert found[FP16] == ("failed", "did not finish within its time limit of 15 s")
    assert found[DYNAMIC] == ("failed", "its process was killed by SIGABRT")
    status, reason = found[INT8]
    assert status == "failed"
    assert reason.endswith("MB of memory, over its limit of 1500 MB")
    assert found[FP32][0] in ("qualified", "inconclusive")


def exported_with(timing: Any, budget: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Result:
    """The export with another function that times two models, which has no results in the cache."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(interleaved, "time_interleaved", timing)
    budgets(budget.parent, **options)
    (result,) = pipeline.export(read(budget), pipeline.Options())
    return result


def test_candidate_that_cannot_be_timed_is_out_and_the_others_go_on(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = exported_with(saboteur.timing_without_int8, again, monkeypatch)
    found = {trial.name: (trial.status, trial.reason) for trial in result.candidates}
    assert (result.exit, found[FP32][0]) == (0, "winner")
    assert found[INT8] == ("failed", "its process was killed by SIGABRT")


def test_noise_is_measured_with_the_next_where_the_simplest_cannot_be_timed(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = exported_with(saboteur.timing_without_fp32, again, monkeypatch, latency__p50_ms=1000.0)
    found = {trial.name: (trial.status, trial.reason) for trial in result.candidates}
    assert (result.exit, found[INT8][0]) == (0, "winner")
    assert found[FP32] == ("failed", "its process was killed by SIGABRT")


def test_two_that_break_side_by_side_alone_are_a_tie(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = exported_with(saboteur.timing_of_one, again, monkeypatch)
    found = {trial.name: (trial.status, trial.reason) for trial in result.candidates}
    assert (result.exit, found[FP32][0], found[INT8][0]) == (0, "winner", "qualified")
    assert "a tie, since they break when they are timed side by side" in found[INT8][1]


def test_winner_that_breaks_at_its_golden_answers_costs_itself_alone(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(golden, "record", saboteur.record)
    shutil.rmtree(again.parent / "artifacts" / ".cache" / "built")
    (result,) = pipeline.export(read(again), pipeline.Options())
    found = {trial.name: (trial.status, trial.reason) for trial in result.candidates}
    assert (result.exit, result.winner) == (1, None)
    assert found[FP32] == found[INT8] == ("failed", "its process was killed by SIGABRT")
    check_registry(again)


def renamed_input(path: Path) -> None:
    model = onnx.load(path)
    model.graph.input[0].name = model.graph.node[0].input[0] = "features"
    onnx.save(model, path)
    with np.load(path.with_name("samples.npz")) as archive:
        np.savez(path.with_name("samples.npz"), features=archive["x"], label=archive["label"])


def damaged_blob(path: Path) -> None:
    store = Registry(path.parent / "artifacts")
    blob = store.model_file(store.load("tiny"))
    blob.write_bytes(blob.read_bytes()[:-1])


@pytest.mark.parametrize("change", [renamed_input, damaged_blob])
def test_current_version_that_cannot_be_timed_slows_nobody_down(again: Path, change: Callable[[Path], None]) -> None:
    budgets(again.parent, precisions=["fp32"], speed__max_slowdown=1.5)
    change(again.parent / "tiny.onnx")
    found = export(again)
    assert found.code == 0, found.stderr
    assert found.verdict(FP32, "speed.max_slowdown")["verdict"] == "PASS"
    assert registry(again).versions("tiny") == [1, 2]


def test_graph_without_anything_to_quantise_is_named(tmp_path: Path) -> None:
    budget = project(tmp_path / "project", precisions=["fp32", "int8-dynamic", "int8-static"], accuracy__max_drop=None)
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", exporting.FEATURES])
    y = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", exporting.FEATURES])
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["logits"])], "tanh", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        budget.parent / "tiny.onnx",
    )
    found = export(budget, "--quick")
    for name in (INT8, DYNAMIC):
        assert found.candidates[name]["status"] == "failed"
        assert "nothing was quantised" in found.candidates[name]["reason"]
    assert found.code == 3


# Exit codes.


def test_impossible_p99_exits_1(tmp_path: Path) -> None:
    budget = project(tmp_path / "project", precisions=["fp32"], latency__p99_ms=0.0001)
    found = export(budget)
    assert (found.code, found.model["winner"]) == (1, None)
    assert found.candidates[FP32]["status"] == "screened-out"
    assert "over 3 times latency.p99_ms = 0.0001" in found.candidates[FP32]["reason"]


def test_too_few_samples_exit_3_with_the_number_needed(tmp_path: Path) -> None:
    budget = project(tmp_path / "project", rows=150, precisions=["fp32"])
    found = export(budget)
    assert (found.code, found.model["winner"]) == (3, None)
    drop = found.verdict(FP32, "accuracy.max_drop")
    assert drop["verdict"] == "INCONCLUSIVE"
    reason = found.candidates[FP32]["reason"]
    assert "accuracy.max_drop is undecided after" in reason
    needed = int(reason.split("about ")[1].split(" samples")[0].replace(",", ""))
    assert needed > drop["n"]
    assert not registry(budget).versions("tiny")


def test_latency_and_memory_are_measured_and_kept(tmp_path: Path) -> None:
    """Limits far from what any machine needs: that all figures are there is the point."""
    budget = project(
        tmp_path / "project",
        precisions=["fp32"],
        latency__p50_ms=200.0,
        latency__p99_ms=500.0,
        memory__peak_mb=4000.0,
    )
    found = export(budget)
    assert found.code == 0, found.stderr
    p99, memory = found.verdict(FP32, "latency.p99_ms"), found.verdict(FP32, "memory.peak_mb")
    assert (p99["verdict"], memory["verdict"]) == ("PASS", "PASS")
    assert p99["n"] >= 5 * 299  # five processes, each with the calls that a p99 needs
    assert 0 < p99["observed"] <= p99["high"] < 500
    assert memory["n"] == 3
    assert 50 < memory["observed"] < 4000
    manifest = registry(budget).load("tiny")
    (winner,) = [candidate for candidate in manifest.candidates if candidate.status == "winner"]
    assert winner.latencies is not None
    assert sum(winner.latencies.counts) == p99["n"]


def changed_data(folder: Path, **columns: np.ndarray) -> None:
    with np.load(folder / "samples.npz") as archive:
        kept = {name: archive[name] for name in archive.files}
    np.savez(folder / "samples.npz", **(kept | columns))


OVERLAPPING = """
import numpy as np
def samples(split):
    x = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    yield {"x": x}, np.zeros(50, int)
def nothing(split):
    return []
"""


@pytest.mark.parametrize(
    ("data", "change", "told"),
    [
        ("own.py:samples", None, "splits calibration and selection share 50 samples; wanted disjoint splits"),
        ("own.py:nothing", None, "own.py:nothing('calibration') gave no sample; wanted at least one"),
        ("samples.npz", {"label": np.zeros((300, 2), int)}, "metric top1: "),
        ("samples.npz", {"label": np.zeros(299, int)}, "columns have {'x': 300, 'label': 299} rows"),
        ("samples.npz", {"x": np.arange(900, dtype=np.float32).reshape(300, 3)}, "input 'x' has shape"),
        ("missing.npz", None, "missing.npz: no such file"),
    ],
)
def test_samples_that_cannot_be_used_exit_2_with_one_line(
    tmp_path: Path, data: str, change: dict[str, np.ndarray] | None, told: str
) -> None:
    budget = project(tmp_path / "project", rows=300, precisions=["fp32"], data=data)
    (budget.parent / "own.py").write_text(OVERLAPPING)
    if change:
        changed_data(budget.parent, **change)
    found = export(budget, "--quick")
    assert (found.code, found.model["exit"], found.model["winner"]) == (2, 2, None)
    assert found.stderr.splitlines()[-1].startswith("error: tiny: ")
    assert told in found.stderr.splitlines()[-1]
    assert "winner" not in found.stderr
    assert "Traceback" not in found.stderr


def custom_operator(path: Path) -> None:
    model = onnx.load(path)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Foo", "my.ops"
    model.opset_import.add(domain="my.ops", version=1)
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: path.unlink(), "no such file; `source` is relative to the budgets file"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "tiny.onnx: onnxruntime cannot open it"),
        (custom_operator, "my.ops:Foo"),
    ],
)
def test_source_that_cannot_be_used_exits_2_with_one_line(
    tmp_path: Path, write: Callable[[Path], None], told: str
) -> None:
    budget = project(tmp_path / "project", rows=300)
    write(budget.parent / "tiny.onnx")
    found = export(budget)
    assert found.code == 2
    assert found.stderr.splitlines()[-1].startswith("error: tiny: ")
    assert told in found.stderr.splitlines()[-1]
    assert "winner" not in found.stderr


def test_models_are_exported_independently_and_the_worst_code_counts(again: Path) -> None:
    text = again.read_text()
    again.write_text(
        text + text.split("\n", 1)[1].replace("models.tiny", "models.broken").replace("tiny.onnx", "none.onnx")
    )
    found = export(again)
    assert found.code == 2
    assert {model["name"]: model["exit"] for model in found.document["models"]} == {"tiny": 0, "broken": 2}
    alone = export(again, "--model", "tiny")
    assert alone.code == 0
    unknown = export(again, "--model", "other")
    assert (unknown.code, unknown.document) == (2, {})
    assert "model other is not in" in unknown.stderr


# Interrupted runs.


def check_registry(budget: Path) -> None:
    store = registry(budget)
    assert (store.versions("tiny"), store.current("tiny")) == ([1], 1)
    manifest = store.load("tiny")
    assert store.model_file(manifest).exists()
    assert store.blob(manifest.golden.blob).exists()


def test_kill_leaves_registry_and_finished_work_and_no_process(again: Path) -> None:
    exporting.classifier(again.parent / "tiny.onnx", seed=5)
    before = cache_entries(again)
    with running(again) as process:
        wait_for(lambda: len(cache_entries(again) - before) >= 4 and exporting.children(process))
        children = exporting.children(process)
        process.kill()
        process.wait()
        wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    check_registry(again)
    finished = cache_entries(again) - before
    forget_result(again)
    found = export(again, "--quick")
    assert finished <= cache_entries(again)
    assert found.code in (1, 3), found.stderr
    assert any(stage["cached"] for stage in stages(again))
    check_registry(again)


def test_interrupt_ends_every_process_and_exits_130(again: Path) -> None:
    exporting.classifier(again.parent / "tiny.onnx", seed=5)
    before = cache_entries(again)
    with running(again) as process:
        wait_for(lambda: len(cache_entries(again) - before) >= 2 and exporting.children(process))
        children = exporting.children(process)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130
        wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    assert stderr.splitlines()[-1] == "interrupted; nothing was left half-written"
    assert "Traceback" not in stderr
    check_registry(again)


def test_full_disk_is_told_and_leaves_the_registry_whole(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault at the border: from some point on nothing can be written below the registry."""
    budgets(again.parent, size__mb=0.5)
    real = Path.open

    def full(path: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if "w" in mode and (again.parent / "artifacts" / "models") in path.parents:
            raise OSError(28, os.strerror(28), str(path))
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    (result,) = pipeline.export(read(again), pipeline.Options())
    assert result.exit == 4
    assert "No space left on device" in result.reason
    monkeypatch.undo()
    check_registry(again)


def test_outcome_that_cannot_be_kept_is_told_with_all_that_was_found(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ArtifactError("result.json: cannot be written: No space left on device")

    monkeypatch.setattr(Registry, "keep", full)
    monkeypatch.setattr(Registry, "keep_judgement", full)
    for run in (
        pipeline.export(read(again), pipeline.Options()),
        pipeline.validate(read(again), pipeline.Options(), None),
    ):
        (result,) = run
        assert (result.exit, result.winner is not None) == (4, True)
        assert "wins; the outcome is not kept for reports: result.json: cannot be written" in result.reason
        assert "winner" in [trial.status for trial in result.candidates]


def test_damaged_current_version_is_published_again(again: Path) -> None:
    store = registry(again)
    manifest = store.load("tiny")
    blob = Path(store.place) / "blobs" / "sha256" / manifest.digest
    blob.write_bytes(blob.read_bytes()[:-1])
    assert export(again).code == 0
    assert store.model_file(store.load("tiny")).exists()
    Path(store.manifest_path("tiny", 1)).write_text("{")
    assert export(again).code == 0
    mended = store.load("tiny")
    assert (mended.version, mended.digest, mended.verdicts) == (2, manifest.digest, manifest.verdicts)
