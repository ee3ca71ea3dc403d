from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from optimize.convert.candidate_specs import CandidateSpec, disabled_optimizers
from optimize.errors import ExecutionError
from optimize.manifest import SessionOptions
from optimize.runtime.session import OnnxSession
from tests.optimize.recipes.models import save, weight


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "x"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "scale", "shift"], ["y"], axis=-1),
    ]
    weights = [weight("w", 16, 16), weight("scale", 16), weight("shift", 16)]
    return save(tmp_path / "residual.onnx", nodes, {"x": ["batch", 3, 16]}, {"y": ["batch", 3, 16]}, weights, opset=17)


def test_optimizers_that_are_slower_on_the_cpu_do_not_run(
    residual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = ort.InferenceSession, tmp_path / "optimised.onnx"

    def telling(path: str, settings: ort.SessionOptions, **others: Any) -> ort.InferenceSession:
        settings.optimized_model_filepath = str(written)
        return real(path, settings, **others)

    monkeypatch.setattr(ort, "InferenceSession", telling)
    ran = {}
    for disabled in ((), disabled_optimizers(CandidateSpec("fp32", "cpu"))):
        with OnnxSession(residual, SessionOptions(disabled_optimizers=disabled)) as session:
            answer = session.run({"x": np.ones((2, 3, 16), np.float32)})["y"]
        ran[disabled] = ({node.op_type for node in onnx.load(written).graph.node}, answer)
    (as_it_comes, first), (without, second) = ran.values()
    assert "SkipLayerNormalization" in as_it_comes
    assert {"Add", "LayerNormalization"} <= without
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert disabled_optimizers(CandidateSpec("fp32", "cuda")) == ()


@pytest.mark.parametrize(
    "inputs",
    [{"x": np.ones((2, 3, 5), np.float32)}, {"x": np.ones((2, 3, 16), np.float64)}, {}, {"y": np.ones(1)}],
    ids=["shape", "dtype", "missing", "unknown"],
)
def test_a_failed_run_raises_one_error_with_one_line(residual: Path, inputs: dict[str, np.ndarray]) -> None:
    with OnnxSession(residual, SessionOptions()) as session, pytest.raises(ExecutionError) as caught:
        session.run(inputs)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
