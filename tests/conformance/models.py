"""The models that the blackbox cases call: ``python -m tests.conformance.models DIR`` publishes them into a registry.

identity            x[batch 1..8, 4] -> y, FP32
identity_DATATYPE   the same in every other datatype of the protocol that onnxruntime takes from numpy
pair                x[batch 1..8, 4] -> same = x, twice = 2 x
"""

import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.published import identity, publish

ELEMENT_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def identity_of(datatype: str) -> str:
    """Name of the identity model of a datatype."""
    return "identity" if datatype == "FP32" else f"identity_{datatype}"


def pair() -> onnx.ModelProto:
    """One input, two outputs."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Add", ["x", "x"], ["twice"])],
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("same", "twice")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def publish_all(root: Path, folder: Path) -> None:
    """Publish every model into the registry at `root`; `folder` is for temporary files."""
    for datatype, element_type in ELEMENT_TYPES.items():
        publish(root, identity_of(datatype), identity(element_type), folder)
    publish(root, "pair", pair(), folder)


if __name__ == "__main__":
    publish_all(Path(sys.argv[1]), Path(sys.argv[1]))
