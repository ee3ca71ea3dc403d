"""Small real models that differ in what scoring has to mind."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Tensor = tuple[str, int, Sequence[int | str]]


def model(
    nodes: list[onnx.NodeProto], inputs: list[Tensor], outputs: list[Tensor], **weights: np.ndarray
) -> onnx.ModelProto:
    """A model of these nodes; inputs and outputs are (name, type, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def lookup() -> onnx.ModelProto:
    """x[batch, 4] int64 -> y = 10 * x; fails on any x beyond 0 .. 9999."""
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    table = np.arange(10_000, dtype=np.int64) * 10
    return model(nodes, [("x", TensorProto.INT64, ["batch", 4])], [("y", TensorProto.INT64, ["batch", 4])], table=table)


def slow(rounds: int) -> onnx.ModelProto:
    """x[batch, 4] -> y = 2 * x, after `rounds` products of 256 x 256 matrices."""
    body = helper.make_graph(
        [helper.make_node("MatMul", ["state", "weight"], ["next"]), helper.make_node("Identity", ["go"], ["on"])],
        "round",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [256, 256]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMin", ["x"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "weight"], ["start"]),
        helper.make_node("Loop", ["rounds", "always", "start"], ["end"], body=body),
        helper.make_node("ReduceMax", ["end"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nothing"], ["added"]),
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("Add", ["doubled", "added"], ["y"]),
    ]
    return model(
        nodes,
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        weight=np.zeros((256, 256), np.float32),
        rounds=np.array(rounds),
        always=np.array(True),
        nothing=np.array(0, np.float32),
        two=np.array(2, np.float32),
    )
