"""Recipes for candidates that go wrong, in place of `optimize.candidates.build`; fp32 is built as ever."""

import os
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from optimize import candidates
from optimize.candidates import Build, Cell
from tests.exporting import CLASSES, FEATURES

honest = candidates.build


def build(cell: Cell, *rest: Any) -> Build:
    """fp16 hangs when it runs, int8-dynamic aborts its process, int8-static takes all memory."""
    if cell.precision == "int8-dynamic":
        os.abort()
    if cell.precision == "fp32":
        return honest(cell, *rest)
    folder: Path = rest[-1]
    onnx.save(hanging() if cell.precision == "fp16" else greedy(), folder / "model.onnx")
    return Build(("model.onnx",), 1, ())


def hanging() -> onnx.ModelProto:
    """Adds one to its input 2^62 times."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["before", "one"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    return _model(
        [helper.make_node("Loop", ["times", "", "x"], ["looped"], body=body), _cut("looped")],
        [helper.make_tensor("times", TensorProto.INT64, [], [2**62])],
    )


def greedy() -> onnx.ModelProto:
    """Makes a value of 4 GB on its way."""
    return _model(
        [
            helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
            helper.make_node("Exp", ["zeros"], ["ones"]),
            helper.make_node("ReduceMean", ["ones"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["x", "mean"], ["scaled"]),
            _cut("scaled"),
        ],
        [helper.make_tensor("huge", TensorProto.INT64, [1], [1_000_000_000])],
    )


def _cut(name: str) -> onnx.NodeProto:
    return helper.make_node("Split", [name, "split"], ["logits", "rest"], axis=1)


def _model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
    split = helper.make_tensor("split", TensorProto.INT64, [2], [CLASSES, FEATURES - CLASSES])
    graph = helper.make_graph(
        nodes,
        "saboteur",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [*constants, split],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
