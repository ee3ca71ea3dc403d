"""What the serving benchmarks call: an identity that costs next to nothing, and an artefact with real work in it."""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from optimize.arrays import Array, Arrays
from optimize.budgets import BATCH, InputSpec
from optimize.manifest import CurvePoint, Manifest, OperatingPoint
from optimize.registry import Registry
from optimize.runtime import golden
from optimize.runtime.batching.scheduling.curve import Curve
from optimize.runtime.session import instances
from tests.published import identity, publish

STAND_IN = "perceptron"
WIDTH = 1024
LAYERS = 48
MAX_BATCH = 32
_BATCHES = (1, 2, 4, 8, 16, 32)
_CALLS = 15


class ModelRef(NamedTuple):
    """One published version, and a row to call it with."""

    registry: Registry
    manifest: Manifest
    row: Arrays

    def tiled(self, rows: int) -> Arrays:
        """So many copies of the row."""
        axes = {spec.name: spec.batch_axis for spec in self.manifest.signature.inputs}
        return {
            name: array if axes[name] is None else _repeated(array, rows, axes[name])
            for name, array in self.row.items()
        }

    @property
    def described(self) -> str:
        """The candidate, and the shape of the row."""
        shapes = {name: list(array.shape) for name, array in self.row.items()}
        return f"{self.manifest.model} {self.manifest.candidate}, {shapes}"

    @property
    def longest(self) -> "ModelRef":
        """The same, called with a row at the largest of every declared dimension."""
        dims = {name: dim.max for name, dim in self.manifest.signature.dims.items() if name != BATCH}
        row = {
            spec.name: np.resize(
                self.row[spec.name],
                [dims.get(str(axis), size) for axis, size in zip(spec.shape, self.row[spec.name].shape, strict=True)],
            )
            for spec in self.manifest.signature.inputs
        }
        return self._replace(row=row)

    @property
    def best_batch(self) -> int:
        """The batch size at which the measured curve gives most rows per second."""
        sizes = {point.batch for point in self.manifest.curve if point.batch <= self.manifest.signature.max_batch}
        return max(sizes, key=lambda rows: rows / self.execution_s(rows))

    def execution_s(self, rows: int) -> float:
        """The measured p95 of so many rows."""
        shape = {
            axis: self.row[spec.name].shape[position]
            for spec in self.manifest.signature.inputs
            for position, axis in enumerate(spec.shape)
            if isinstance(axis, str) and position != spec.batch_axis
        }
        return Curve(self.manifest.curve).p95_s(rows, shape)


def _repeated(array: Array, rows: int, axis: int) -> Array:
    return np.repeat(np.take(array, [0], axis=axis), rows, axis=axis)


def published(root: Path, name: str) -> ModelRef:
    """The current version of a model, called with the first row of its golden inputs."""
    registry = Registry(str(root))
    manifest = registry.load(name)
    inputs, _ = golden.load(registry.blob(manifest.golden.blob), manifest.golden)[0]
    model_ref = ModelRef(registry, manifest, inputs)
    return model_ref._replace(row=model_ref.tiled(1))


def trivial(folder: Path) -> ModelRef:
    """An identity: an execution of about 0.1 ms, batching and all."""
    publish(folder / "trivial", "identity", identity(), folder)
    return published(folder / "trivial", "identity")


def weights() -> list[Array]:
    """Of the stand-in's layers."""
    rng = np.random.default_rng(7)
    return [rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32) for _ in range(LAYERS)]


def perceptron() -> torch.nn.Module:
    """The stand-in, in PyTorch."""

    class Perceptron(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ParameterList(torch.nn.Parameter(torch.from_numpy(w)) for w in weights())

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            for weight in self.layers:
                x = torch.relu(x @ weight)
            return {"y": x}

    return Perceptron()


def stand_in(folder: Path) -> ModelRef:
    """The same in ONNX, published with the curve that it has on this machine."""
    names = ["x", *(f"h{layer}" for layer in range(1, LAYERS)), "y"]
    nodes = []
    for layer in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [names[layer], f"w{layer}"], [f"p{layer}"]))
        nodes.append(helper.make_node("Relu", [f"p{layer}"], [names[layer + 1]]))
    io = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])] for name in "xy"]
    tensors = [numpy_helper.from_array(array, f"w{layer}") for layer, array in enumerate(weights())]
    model = helper.make_model(
        helper.make_graph(nodes, STAND_IN, *io, tensors),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    root = folder / "stand-in"
    publish(root, STAND_IN, model, folder, max_batch=MAX_BATCH)
    model_ref = published(root, STAND_IN)
    budgets = msgspec.structs.replace(
        model_ref.manifest.budgets,
        source=f"{Path(__file__)}:perceptron",
        inputs={"x": InputSpec(dtype="float32", shape=("batch", WIDTH))},
    )
    model_ref.registry.publish(
        msgspec.structs.replace(
            model_ref.manifest,
            budgets=budgets,
            curve=_curve(model_ref),
            online=OperatingPoint(1, _cores(), 8, 1, 1, 1, 1),
        )
    )
    return published(root, STAND_IN)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _curve(model_ref: ModelRef) -> tuple[CurvePoint, ...]:
    """Latencies with as many sessions at work as will be: here one after the other, which flatters nobody."""
    artifact = model_ref.manifest.artifact
    points = []
    with instances(model_ref.registry.model_file(model_ref.manifest), artifact.options, 1) as (session, *_):
        for rows in _BATCHES:
            inputs, took_ms = model_ref.tiled(rows), []
            for _ in range(_CALLS):
                started = time.perf_counter()
                session.run(inputs)
                took_ms.append(1e3 * (time.perf_counter() - started))
            p50_ms, p95_ms = np.percentile(took_ms, [50, 95])
            points.append(CurvePoint({}, rows, float(p50_ms), float(p95_ms), _CALLS))
    return tuple(points)


def as_json(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays as JSON has them."""
    return {name: np.asarray(array).tolist() for name, array in arrays.items()}
