from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from optimize.convert import candidate_build
from optimize.convert.candidate_build import BuiltCandidate
from optimize.convert.candidate_specs import CandidateSpec
from optimize.errors import CandidateError
from optimize.manifest import Signature, TensorSpec
from optimize.recipes.recipe_result import RecipeResult
from optimize.source.samples import Batch
from optimize.source.split_file import store_split
from tests.optimize.recipes.models import operators, run, save, weight


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    weights = [weight("w", 64, 64), weight("v", 64, 8, seed=1)]
    return save(tmp_path / "mlp.onnx", nodes, {"x": ["batch", 64]}, {"y": ["batch", 8]}, weights)


def correlated(rows: int, width: int) -> npt.NDArray[np.float32]:
    """Samples whose neighbouring values are correlated, as in real data."""
    noise = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    return (noise + np.roll(noise, 1, axis=1)) / np.float32(np.sqrt(2))


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    values = correlated(200, 64)
    store_split(tmp_path / "calibration.npz", [Batch({"x": values}, None)])
    return tmp_path / "calibration.npz"


SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 64)),), ())


def built_on_cpu(
    precision: Any, model: Path, calibration: Path, folder: Path, signature: Signature = SIGNATURE
) -> BuiltCandidate:
    return candidate_build.build(CandidateSpec(precision, "cpu"), model, calibration, signature, (), folder)


@pytest.mark.parametrize(
    ("precision", "operator", "within"),
    [("fp32", "MatMul", 1e-6), ("fp16", "Cast", 0.2), ("int8-dynamic", "DynamicQuantizeLinear", 3.0),
     ("int8-static", "QuantizeLinear", 3.0)],
)  # fmt: skip
def test_each_precision_builds_its_operators(
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
def test_graph_without_anything_to_quantise_is_refused(tmp_path: Path, calibration: Path, precision: Any) -> None:
    model = save(
        tmp_path / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": ["batch", 64]}, {"y": ["batch", 64]}
    )
    folder = tmp_path / "built"
    folder.mkdir()
    with pytest.raises(CandidateError, match="nothing was quantised"):
        built_on_cpu(precision, model, calibration, folder)


def test_too_few_calibration_samples_are_refused(mlp: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.npz"
    store_split(few, [Batch({"x": np.eye(64, dtype=np.float32)[:20]}, None)])
    with pytest.raises(CandidateError, match="calibration has 20 samples; wanted at least 100"):
        built_on_cpu("int8-static", mlp, few, tmp_path)


def test_engines_built_here_share_a_timing_cache(
    mlp: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake at the border: the library that times needs a GPU."""
    caches = []

    def build(_: Path, folder: Path, *__: object, timing_cache: Path, **___: object) -> RecipeResult:
        caches.append(timing_cache)
        return RecipeResult((folder / "model.engine",), 1)

    monkeypatch.setattr("optimize.recipes.tensorrt.build", build)
    for name in ("first", "second"):
        candidate_build.build(CandidateSpec("fp32", "tensorrt"), mlp, calibration, SIGNATURE, (), tmp_path / name)
    assert set(caches) == {tmp_path / "tensorrt.timing"}


def test_calibration_whose_answers_are_not_finite_is_the_farthest() -> None:
    expected = [{"y": np.array([3.0, 4.0], np.float32)}]
    distances = [
        candidate_build._distance(expected, [{"y": np.array(answers, np.float32)}])
        for answers in ([3.0, np.nan], [np.inf, 4.0], [3.0, 4.5])
    ]
    assert distances == [float("inf"), float("inf"), pytest.approx(0.1)]


def test_samples_are_counted_in_rows_batched_or_not(tmp_path: Path) -> None:
    """A model without a batch axis has one sample per batch: every calibration must still see enough of them."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Exp", ["h"], ["e"]),  # outliers, so that minmax alone is not close enough
        helper.make_node("MatMul", ["e", "v"], ["y"]),
    ]
    weights = [weight("w", 64, 64), weight("v", 64, 8, seed=1)]
    model = save(tmp_path / "alone.onnx", nodes, {"x": [64]}, {"y": [8]}, weights)
    values = correlated(200, 64)
    store_split(tmp_path / "calibration.npz", [Batch({"x": row}, None) for row in values])
    folder = tmp_path / "built"
    folder.mkdir()
    alone = Signature((TensorSpec("x", "float32", (64,)),), ())
    built = built_on_cpu("int8-static", model, tmp_path / "calibration.npz", folder, alone)
    assert built.changed > 0
    assert "calibration came closest" in built.notes[-1]


@pytest.mark.parametrize(("rows", "batches"), [(1, 512), (32, 16), (50, 11), (600, 1)])
def test_calibration_takes_whole_batches_of_the_first_512_rows(tmp_path: Path, rows: int, batches: int) -> None:
    values = np.zeros((rows, 64), np.float32)
    store_split(tmp_path / "calibration.npz", [Batch({"x": values}, None)] * (600 // rows + 2))
    assert len(list(candidate_build._calibration(tmp_path / "calibration.npz", SIGNATURE))) == batches
