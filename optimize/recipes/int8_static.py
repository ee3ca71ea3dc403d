"""INT8 with fixed ranges: Q/DQ pairs around the operators with 8-bit kernels, their ranges taken from calibration samples."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import onnx
from onnx import TensorProto

from optimize.errors import CandidateError
from optimize.recipes import calibration as samples
from optimize.recipes import graph as graphs
from optimize.recipes import placement, qdq, ranges, storage, types
from optimize.recipes.built import Built

Method = Literal["minmax"]

_CALIBRATORS = {"minmax": ranges.minmax}


def build(
    source: Path,
    folder: Path,
    calibration: Iterable[Mapping[str, npt.NDArray[Any]]],
    *,
    symmetric: bool = False,
    method: Method = "minmax",
) -> Built:
    """Quantise the model at `source` into `folder`.

    `symmetric` is what TensorRT and CUDA run: zero points 0 and biases in fp32. Without it activations are asymmetric, which uses
    the eight bits better on a CPU. Weights are symmetric per channel either way.

    Raises:
        CandidateError: The samples cannot calibrate, or nothing was quantised.
    """
    model, notes = graphs.normalised(source)
    batches = samples.checked(model.graph, calibration)
    found = _CALIBRATORS[method](source, _activations(model.graph), batches)
    placed = placement.place(model.graph, found, asymmetric=not symmetric)
    qdq.write(model.graph, placed, found, symmetric=symmetric)
    graphs.drop_unused(model.graph)
    changed = count_quantised(model.graph)
    if not changed:
        raise CandidateError(
            "nothing was quantised: the main graph has no Conv, Gemm or MatMul with constant weights and finite values"
        )
    return Built(storage.write(model, folder / "model.onnx"), changed, notes)


def count_quantised(graph: onnx.GraphProto) -> int:
    """Nodes whose first input is an activation that comes out of DequantizeLinear."""
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return sum(
        node.op_type != "QuantizeLinear" and len(node.input) > 0 and node.input[0] in dequantised for node in graph.node
    )


def _activations(graph: onnx.GraphProto) -> list[str]:
    element_types = types.of(graph)
    constants = {tensor.name for tensor in graph.initializer}
    names = {
        name
        for node in graph.node
        if node.op_type in graphs.ANCHORS | placement.PASSING
        for name in (*node.input, *node.output)
        if name and name not in constants and element_types.get(name) == TensorProto.FLOAT
    }
    return sorted(names)
