"""Publish small real ONNX models into a registry, for tests that serve, score or load-test one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from optimize.arrays import Arrays
from optimize.budgets import Dim, LatencyBudget, ModelBudgets
from optimize.manifest import (
    Artifact,
    CurvePoint,
    Golden,
    Machine,
    Manifest,
    SessionOptions,
    Signature,
)
from optimize.registry import Registry
from optimize.runtime.session import OnnxSession

MAX_BATCH = 8


def identity(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """x[batch, 4] -> y = x, bit for bit."""
    return _model([helper.make_node("Identity", ["x"], ["y"])], dtype, 4)


def scale(factor: float) -> onnx.ModelProto:
    """x[batch, 4] -> y = factor * x, so that an answer tells which version gave it."""
    weight = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    return _model([helper.make_node("Mul", ["x", "factor"], ["y"])], TensorProto.FLOAT, 4, [weight])


def laborious(width: int, rounds: int | None = None) -> onnx.ModelProto:
    """x[batch, 4] -> y = x, after `rounds` matrix products, or as many as its largest element says."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", "weight"], ["next"]),
            helper.make_node("Identity", ["condition"], ["go_on"]),
        ],
        "round",
        [
            value("round", TensorProto.INT64, []),
            value("condition", TensorProto.BOOL, []),
            value("carried", TensorProto.FLOAT, [width, width]),
        ],
        [value("go_on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [width, width])],
    )
    identity_matrix = np.eye(width, dtype=np.float32)
    weights = [helper.make_tensor("weight", TensorProto.FLOAT, (width, width), identity_matrix.tobytes(), raw=True)]
    counted = []
    if rounds is None:
        counted = [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["rounds"], to=TensorProto.INT64),
        ]
    else:
        weights.append(helper.make_tensor("rounds", TensorProto.INT64, [], [rounds]))
    nodes = [
        *counted,
        helper.make_node("Loop", ["rounds", "", "weight"], ["product"], body=body),
        helper.make_node("ReduceMax", ["product"], ["one"], keepdims=0),
        helper.make_node("Mul", ["x", "one"], ["y"]),
    ]
    return _model(nodes, TensorProto.FLOAT, 4, weights)


def _model(nodes: list, dtype: int, width: int, weights: list | None = None) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", dtype, ["batch", width])],
        [helper.make_tensor_value_info("y", dtype, ["batch", width])],
        weights or [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def publish(root: Path | str, name: str, model: onnx.ModelProto, folder: Path, max_batch: int = MAX_BATCH) -> Manifest:
    """Publish a one-input model as the next version of `name` in the registry at `root`."""
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    with OnnxSession(path, SessionOptions()) as session:
        (spec,) = session.inputs
    # By way of text, since a model of strings takes no numbers.
    numbers = [np.full((1, spec.shape[1]), index) for index in range(8)]
    golden = [{spec.name: (x.astype("U") if spec.dtype == "object" else x).astype(spec.dtype)} for x in numbers]
    return publish_file(root, name, path, folder, golden, {"batch": Dim(1, 1, max_batch)})


def publish_file(
    root: Path | str,
    name: str,
    path: Path,
    folder: Path,
    golden_inputs: Sequence[Arrays],
    dims: dict[str, Dim],
    pads: Mapping[str, float] | None = None,
) -> Manifest:
    """Publish the model at `path` as the next version of `name` in the registry at `root`; `folder` is for temporary files."""
    registry = Registry(root)
    options = SessionOptions(target="cpu", threads=1)
    max_batch = dims["batch"].max
    with OnnxSession(path, options) as session:
        golden_path = folder / "golden.npz"
        arrays = {}
        for index, inputs in enumerate(golden_inputs):
            for side, named in (("in", inputs), ("out", session.run(inputs))):
                for key, array in named.items():
                    arrays[f"{side}/{index}/{key}"] = array.astype("U") if array.dtype.hasobject else array
        np.savez(golden_path, **arrays)
        padded = pads or {}
        inputs = tuple(msgspec.structs.replace(spec, pad=padded.get(spec.name)) for spec in session.inputs)
        signature = Signature(inputs=inputs, outputs=session.outputs, dims=dims)
    return registry.publish(
        Manifest(
            schema=1,
            model=name,
            version=0,
            created="2026-01-01T00:00:00Z",
            candidate="fp32@onnxruntime-cpu",
            artifact=Artifact("onnx", (registry.put(path, f"{name}.onnx"),), options),
            signature=signature,
            budgets=ModelBudgets(source=f"{name}.onnx", latency=LatencyBudget(p99_ms=50.0), dims=dims),
            verdicts=(),
            curve=tuple(CurvePoint({}, batch, 0.2, 0.3, 100) for batch in (1, 2, 4, 8) if batch <= max_batch),
            candidates=(),
            golden=Golden(registry.put(golden_path, "golden.npz"), len(golden_inputs), 1e-6, 1e-6),
            source_digest="0" * 64,
            data_digest="0" * 64,
            tools={},
            machine=Machine("test", 2, 1024, ()),
        )
    )
