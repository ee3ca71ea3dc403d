"""Small projects to export: an ONNX classifier, labelled samples in a .npz file, a budgets file, and the command itself."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from optimize.registry import Registry

PATIENCE_S = 400.0
FEATURES, HIDDEN, CLASSES = 16, 32, 4


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "w": generator.normal(size=(FEATURES, HIDDEN)).astype(np.float32),
        "v": generator.normal(size=(HIDDEN, CLASSES)).astype(np.float32),
    }


def classifier(path: Path, seed: int = 0) -> Path:
    """x[batch, 16] -> logits[batch, 4]: two MatMuls with a Relu between."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["logits"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights(seed).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def samples(path: Path, rows: int = 4000, seed: int = 1) -> Path:
    """Rows with the classifier's own answers as labels, which are right but for classes 2 and 3: all of theirs are wrong.

    So the source's accuracy is well above chance, and answers can change without any loss.
    """
    x = np.random.default_rng(seed).normal(size=(rows, FEATURES)).astype(np.float32)
    answers = answers_to(x)
    np.savez(path, x=x, label=np.where(answers >= 2, 0, answers))
    return path


def answers_to(x: np.ndarray) -> np.ndarray:
    w, v = weights().values()
    return (np.maximum(x @ w, 0) @ v).argmax(axis=1)


ACCURACY = {"max_drop": 0.03, "min_agreement": 0.9}


def budgets(folder: Path, **options: Any) -> Path:
    """Write budgets.toml for the model `tiny`: option `a__b` is key a.b, and None leaves a key out."""
    table = {
        "source": "tiny.onnx",
        "data": "samples.npz",
        "precisions": ["fp32", "int8-static"],
        "dims.batch": {"max": 8},
        "accuracy.max_drop": ACCURACY["max_drop"],
        "accuracy.min_agreement": ACCURACY["min_agreement"],
        "size.mb": 1.0,
    } | {key.replace("__", "."): value for key, value in options.items()}
    lines = [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]
    path = folder / "budgets.toml"
    path.write_text("\n".join(["schema = 1", "[models.tiny]", *lines, ""]))
    return path


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + " }"
    return json.dumps(value)


def project(folder: Path, *, rows: int = 4000, **options: Any) -> Path:
    """A whole project; returns its budgets file."""
    folder.mkdir(parents=True, exist_ok=True)
    classifier(folder / "tiny.onnx")
    samples(folder / "samples.npz", rows)
    return budgets(folder, **options)


@dataclass(frozen=True)
class Export:
    """What one run of `optimize export` left."""

    code: int
    document: dict[str, Any]
    stderr: str

    @property
    def model(self) -> dict[str, Any]:
        (model,) = self.document["models"]
        return model

    @property
    def candidates(self) -> dict[str, dict[str, Any]]:
        return {candidate["name"]: candidate for candidate in self.model["candidates"]}

    def verdict(self, candidate: str, budget: str) -> dict[str, Any]:
        (found,) = [v for v in self.candidates[candidate]["verdicts"] if v["budget"] == budget]
        return found


def command(budget: Path, *arguments: str, name: str = "export") -> list[str]:
    return [str(Path(sys.executable).with_name("optimize")), name, "--budget", str(budget), *arguments]


def export(budget: Path, *arguments: str, name: str = "export") -> Export:
    """Run the command to its end, from a folder that holds nothing of the project's."""
    done = subprocess.run(
        [*command(budget, *arguments, name=name), "--json"],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    document = json.loads(done.stdout) if done.stdout else {}
    return Export(done.returncode, document, done.stderr)


@contextlib.contextmanager
def running(budget: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command on its way, in a process group of its own as a shell would give it; ended at the latest on leaving."""
    process = subprocess.Popen(
        command(budget, *arguments),
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_for(condition: Callable[[], Any], patience_s: float = 60.0) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def registry(budget: Path) -> Registry:
    return Registry(budget.parent / "artifacts")


def cache_entries(budget: Path, kind: str = "") -> set[str]:
    root = budget.parent / "artifacts" / ".cache" / kind
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
