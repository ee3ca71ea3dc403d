"""A published artefact runs where there is nothing but onnxruntime, numpy and our wheel with what it needs itself."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.published import publish, scale

REPOSITORY = Path(__file__).parents[2]

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


def call(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, f"{' '.join(command)}:\n{ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture
def edge(tmp_path: Path) -> str:
    """The Python of an environment of its own."""
    call(sys.executable, "-m", "venv", str(tmp_path / "edge"))
    python = str(tmp_path / "edge" / "bin" / "python")
    source = tmp_path / "source"  # of its own, since a build leaves files behind
    for package in ("optimize", "serve", "loadtest", "protos"):
        shutil.copytree(REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, source)
    call(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source))
    (wheel,) = tmp_path.glob("proveserve-*.whl")
    call(python, "-m", "pip", "install", "--quiet", "onnxruntime>=1.22,<2", str(wheel))
    return python


def test_an_artefact_scores_with_onnxruntime_numpy_and_our_wheel_alone(edge: str, tmp_path: Path) -> None:
    publish(tmp_path / "registry", "model", scale(2.0), tmp_path)

    found = json.loads(call(edge, "-c", SCORE, str(tmp_path / "registry")))

    assert found == {"answer": [[0.0, 2.0, 4.0, 6.0], [8.0, 10.0, 12.0, 14.0]], "heavy": []}
