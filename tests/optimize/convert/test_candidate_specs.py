import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from optimize.budgets import ModelBudgets
from optimize.convert import candidate_specs
from optimize.convert.candidate_specs import BuiltCandidate, CandidateSpec, grid
from optimize.errors import CandidateError
from optimize.manifest import Signature, TensorSpec
from optimize.recipes.built import Built
from optimize.source import samples
from optimize.source.samples import Batch
from tests.optimize.recipes.models import operators, run, save, weight

CPU = ("CPUExecutionProvider",)
CUDA = ("CUDAExecutionProvider", *CPU)
ROWS = {"calibration": 500, "selection": 5000, "confirmation": 5000}


def reasons(providers: tuple[str, ...] = CPU, rows: dict[str, int] = ROWS, **options: Any) -> dict[str, str]:
    """Why each spec of the grid does not apply; empty where it does."""
    specs = grid(ModelBudgets(source="m.onnx", **options), rows, providers)
    found = {spec.name: spec.reason for spec in specs}
    assert len(found) == len(specs)
    return found


def test_cpu_cells_stand_in_order_of_simplicity() -> None:
    assert reasons() == {
        "fp32@onnxruntime-cpu": "",
        "fp16@onnxruntime-cpu": "slower than fp32 on most CPUs; list it in `precisions` to try it",
        "int8-dynamic@onnxruntime-cpu": "",
        "int8-static@onnxruntime-cpu": "",
    }


def test_listed_precisions_alone_are_in_the_grid() -> None:
    assert reasons(precisions=("int8-static", "fp16")) == {
        "fp16@onnxruntime-cpu": "",
        "int8-static@onnxruntime-cpu": "",
    }


def test_target_that_is_listed_twice_counts_once() -> None:
    assert list(reasons(targets=("cpu", "cpu"), precisions=("fp32",))) == ["fp32@onnxruntime-cpu"]


def test_cuda_needs_its_provider() -> None:
    reason = "no GPU: this machine's onnxruntime offers no CUDAExecutionProvider"
    assert reasons(targets=("cuda",))["fp32@onnxruntime-cuda"] == reason
    assert reasons(CUDA, targets=("cuda",)) == {
        "fp32@onnxruntime-cuda": "",
        "fp16@onnxruntime-cuda": "",
        "int8-dynamic@onnxruntime-cuda": "onnxruntime has no CUDA kernels for dynamically quantised operators",
        "int8-static@onnxruntime-cuda": "",
    }


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_has_no_dynamic_int8_whatever_is_installed(target: Any) -> None:
    name = f"int8-dynamic@{target}"
    assert reasons(targets=(target,))[name] == "TensorRT supports neither DynamicQuantizeLinear nor MatMulInteger"


def test_engine_for_rtx_needs_a_gpu_to_be_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    name, real = "fp32@tensorrt-rtx", importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if "tensorrt" in module else real(module))
    assert reasons(targets=("tensorrt-rtx",))[name] == "tensorrt-rtx is not installed; install proveserve[rtx]"
    assert reasons(targets=("tensorrt",))["fp32@tensorrt"].startswith("tensorrt is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert reasons(targets=("tensorrt-rtx",))[name].startswith("no GPU to build for; declare compute_capabilities")
    assert reasons(targets=("tensorrt-rtx",), compute_capabilities=("89",))[name] == ""


def test_dynamic_int8_is_no_candidate_where_answers_must_not_depend_on_the_batch() -> None:
    found = reasons(batch_invariant=True)
    assert found["int8-dynamic@onnxruntime-cpu"] == (
        "its answer to a row depends on its batch, and batch_invariant = true"
    )
    assert found["int8-static@onnxruntime-cpu"] == ""


def test_static_int8_needs_calibration_samples() -> None:
    assert reasons(rows={})["int8-static@onnxruntime-cpu"] == "int8-static needs calibration samples; declare `data`"
    assert reasons(rows={})["int8-dynamic@onnxruntime-cpu"] == ""


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    weights = [weight("w", 64, 64), weight("v", 64, 8, seed=1)]
    return save(tmp_path / "mlp.onnx", nodes, {"x": ["batch", 64]}, {"y": ["batch", 8]}, weights)


def alike(rows: int, width: int) -> npt.NDArray[np.float32]:
    """Samples whose neighbouring values are alike, as those of real data are."""
    noise = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    return (noise + np.roll(noise, 1, axis=1)) / np.float32(np.sqrt(2))


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    values = alike(200, 64)
    samples.store(tmp_path / "calibration.npz", [Batch({"x": values}, None)])
    return tmp_path / "calibration.npz"


SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 64)),), ())


def built_on_cpu(
    precision: Any, model: Path, calibration: Path, folder: Path, signature: Signature = SIGNATURE
) -> BuiltCandidate:
    return candidate_specs.build(CandidateSpec(precision, "cpu"), model, calibration, signature, (), folder)


@pytest.mark.parametrize(
    ("precision", "operator", "within"),
    [("fp32", "MatMul", 1e-6), ("fp16", "Cast", 0.2), ("int8-dynamic", "DynamicQuantizeLinear", 3.0),
     ("int8-static", "QuantizeLinear", 3.0)],
)  # fmt: skip
def test_each_precision_builds_what_it_says(
    mlp: Path, calibration: Path, tmp_path: Path, precision: Any, operator: str, within: float
) -> None:
    folder = tmp_path / "built"
    folder.mkdir()
    built = built_on_cpu(precision, mlp, calibration, folder)
    model = folder / built.files[0]
    assert operator in operators(model)
    assert (built.changed > 0) == (precision != "fp32")
    assert sorted(path.name for path in folder.iterdir()) == sorted(built.files)
    inputs = {"x": np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)}
    np.testing.assert_allclose(run(model, inputs)[0], run(mlp, inputs)[0], atol=within)


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-static"])
def test_graph_without_anything_to_quantise_is_told(tmp_path: Path, calibration: Path, precision: Any) -> None:
    model = save(
        tmp_path / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": ["batch", 64]}, {"y": ["batch", 64]}
    )
    folder = tmp_path / "built"
    folder.mkdir()
    with pytest.raises(CandidateError, match="nothing was quantised"):
        built_on_cpu(precision, model, calibration, folder)


def test_too_few_calibration_samples_are_refused(mlp: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.npz"
    samples.store(few, [Batch({"x": np.eye(64, dtype=np.float32)[:20]}, None)])
    with pytest.raises(CandidateError, match="calibration has 20 samples; wanted at least 100"):
        built_on_cpu("int8-static", mlp, few, tmp_path)


def test_engines_that_are_built_here_share_what_the_builder_timed(
    mlp: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake at the border: the library that times comes with a GPU."""
    caches = []

    def build(_: Path, folder: Path, *__: object, timing_cache: Path, **___: object) -> Built:
        caches.append(timing_cache)
        return Built((folder / "model.engine",), 1)

    monkeypatch.setattr("optimize.recipes.tensorrt.build", build)
    for name in ("first", "second"):
        candidate_specs.build(CandidateSpec("fp32", "tensorrt"), mlp, calibration, SIGNATURE, (), tmp_path / name)
    assert set(caches) == {tmp_path / "tensorrt.timing"}


def test_calibration_whose_answers_are_no_numbers_is_the_farthest() -> None:
    expected = [{"y": np.array([3.0, 4.0], np.float32)}]
    distances = [
        candidate_specs._distance(expected, [{"y": np.array(answers, np.float32)}])
        for answers in ([3.0, np.nan], [np.inf, 4.0], [3.0, 4.5])
    ]
    assert distances == [float("inf"), float("inf"), pytest.approx(0.1)]


def test_samples_are_counted_in_rows_whether_they_come_in_batches_or_alone(tmp_path: Path) -> None:
    """A model without batch axis has one sample a batch: every calibration must still see enough of them."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Exp", ["h"], ["e"]),  # outliers, so that minmax alone is not close enough
        helper.make_node("MatMul", ["e", "v"], ["y"]),
    ]
    weights = [weight("w", 64, 64), weight("v", 64, 8, seed=1)]
    model = save(tmp_path / "alone.onnx", nodes, {"x": [64]}, {"y": [8]}, weights)
    values = alike(200, 64)
    samples.store(tmp_path / "calibration.npz", [Batch({"x": row}, None) for row in values])
    folder = tmp_path / "built"
    folder.mkdir()
    alone = Signature((TensorSpec("x", "float32", (64,)),), ())
    built = built_on_cpu("int8-static", model, tmp_path / "calibration.npz", folder, alone)
    assert built.changed > 0
    assert "calibration came closest" in built.notes[-1]


@pytest.mark.parametrize(("rows", "batches"), [(1, 512), (32, 16), (50, 11), (600, 1)])
def test_calibration_takes_whole_batches_of_the_first_512_rows(tmp_path: Path, rows: int, batches: int) -> None:
    values = np.zeros((rows, 64), np.float32)
    samples.store(tmp_path / "calibration.npz", [Batch({"x": values}, None)] * (600 // rows + 2))
    assert len(list(candidate_specs._calibration(tmp_path / "calibration.npz", SIGNATURE))) == batches
