"""A published artefact runs where there is nothing but onnxruntime, numpy and our wheel with what it needs itself."""

import json
from pathlib import Path

import pytest

from tests import environments
from tests.published import publish, scale

SCORE = """
import importlib.util, json, sys
from pathlib import Path

import numpy as np

from optimize.registry import Registry
from optimize.runtime import golden
from optimize.runtime.session import OnnxSession, check_inputs

registry = Registry(Path(sys.argv[1]))
manifest = registry.load("model")
inputs = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
with OnnxSession(registry.model_file(manifest), manifest.artifact.options) as session:
    golden.replay(session, registry.blob(manifest.golden.blob), manifest.golden)
    check_inputs(manifest.signature, inputs)
    answer = session.run(inputs)["y"]
heavy = [name for name in ("torch", "onnx", "ray", "grpc", "locust", "scipy") if importlib.util.find_spec(name)]
print(json.dumps({"answer": answer.tolist(), "heavy": heavy}))
"""


@pytest.fixture
def edge(tmp_path: Path) -> str:
    """The Python of an environment of its own."""
    return str(environments.fresh(tmp_path, "onnxruntime>=1.25,<2"))


def test_an_artefact_scores_with_onnxruntime_numpy_and_our_wheel_alone(edge: str, tmp_path: Path) -> None:
    publish(tmp_path / "registry", "model", scale(2.0), tmp_path)

    found = json.loads(environments.call(edge, "-c", SCORE, str(tmp_path / "registry")))

    assert found == {"answer": [[0.0, 2.0, 4.0, 6.0], [8.0, 10.0, 12.0, 14.0]], "heavy": []}
