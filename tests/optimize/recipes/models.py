"""Small ONNX models, and ways to run them, for the tests of recipes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def weight(name: str, *shape: int, seed: int = 0, scale: float = 1.0) -> onnx.TensorProto:
    values = scale * np.random.default_rng(seed).normal(size=shape)
    return numpy_helper.from_array(values.astype(np.float32), name)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list],
    outputs: dict[str, list],
    weights: list[onnx.TensorProto] | None = None,
    *,
    opset: int = 18,
    types: dict[str, int] | None = None,
    domains: tuple[str, ...] = (),
) -> Path:
    """Write a model; inputs and outputs map a name to its shape, and are float unless `types` says otherwise."""
    chosen = types or {}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info(name, chosen.get(name, FLOAT), shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, chosen.get(name, FLOAT), shape) for name, shape in outputs.items()],
            weights or [],
        ),
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)],
        ir_version=9,
    )
    path.write_bytes(model.SerializeToString())
    return path


def run(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in onnx.load(path).graph.initializer):
        # At the next level onnxruntime crashes on Transpose -> MatMul in FP16 (microsoft/onnxruntime#28392).
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"]).run(None, inputs)


def operators(path: Path, *, optimised: bool = False) -> list[str]:
    """Operator types of the main graph, as written or as onnxruntime runs it."""
    if optimised:
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        target = path.with_suffix(".optimised.onnx")
        settings.optimized_model_filepath = str(target)
        ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        path = target
    return [node.op_type for node in onnx.load(path).graph.node]


def batches(shape: tuple[int, ...], name: str = "x", rows: int = 128, size: int = 16, seed: int = 3) -> list[dict]:
    """Samples whose neighbouring values are correlated, as those of real data are; pure noise is refused as calibration."""
    noise = np.random.default_rng(seed).normal(size=(rows, *shape)).astype(np.float32)
    values = (noise + np.roll(noise, 1, axis=-1)) / np.float32(np.sqrt(2))
    return [{name: values[start : start + size]} for start in range(0, rows, size)]
