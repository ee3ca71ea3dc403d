"""What makes candidates go wrong: recipes in place of the build of a candidate, comparisons and golden answers that break."""

import json
import os
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from optimize.convert import candidate_build
from optimize.convert.candidate_build import BuiltCandidate
from optimize.convert.candidate_specs import CandidateSpec
from optimize.measure import interleaved
from optimize.measure.interleaved import InterleavedTiming
from optimize.source.model_ref import ModelRef
from tests.exporting import CLASSES, FEATURES

honest = candidate_build.build
honest_timing = interleaved.time_interleaved


def timing_without_int8(a: ModelRef, b: ModelRef, *rest: Any) -> InterleavedTiming:
    """Aborts wherever artefacts are timed and a quantised one is among them; against the source all goes well."""
    if a.path and b.path and (_quantised(a.path) or _quantised(b.path)):
        os.abort()
    return honest_timing(a, b, *rest)


def timing_without_fp32(a: ModelRef, b: ModelRef, *rest: Any) -> InterleavedTiming:
    """Aborts wherever fp32 is timed against an artefact, itself included."""
    if a.path and b.path and not (_quantised(a.path) and _quantised(b.path)):
        os.abort()
    return honest_timing(a, b, *rest)


def timing_of_one(a: ModelRef, b: ModelRef, *rest: Any) -> InterleavedTiming:
    """Aborts wherever two different artefacts are timed."""
    if a.path and b.path and a.path != b.path:
        os.abort()
    return honest_timing(a, b, *rest)


def record(*_: Any) -> None:
    """Golden answers that no candidate comes to give."""
    os.abort()


def _quantised(model: Path) -> bool:
    record = json.loads((model.parent / "record.json").read_text())
    return int(record["changed"]) > 0


def build(spec: CandidateSpec, *rest: Any) -> BuiltCandidate:
    """fp32 is built as ever; fp16 hangs when it runs, int8-dynamic aborts its process, int8-static takes all memory."""
    if spec.precision == "int8-dynamic":
        os.abort()
    if spec.precision == "fp32":
        return honest(spec, *rest)
    folder: Path = rest[-1]
    onnx.save(hanging() if spec.precision == "fp16" else greedy(), folder / "model.onnx")
    return BuiltCandidate(("model.onnx",), 1, ())


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
