"""INT8 with fixed ranges: Q/DQ nodes around the operators that have 8-bit kernels, their ranges taken from calibration samples."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from optimize.errors import CandidateError
from optimize.recipes import calibration as samples
from optimize.recipes import graph as graphs
from optimize.recipes import ranges, storage, types
from optimize.recipes.built import Built
from optimize.recipes.ranges import Range

Method = Literal["minmax"]

_CALIBRATORS = {"minmax": ranges.minmax}

PASSING = frozenset(
    {
        "Add", "AveragePool", "Clip", "Concat", "Flatten", "Gather", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Pad", "Relu",
        "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators that keep a value in 8 bits between two that compute in 8 bits. Softmax, normalisation and products of two
activations are left out: 8 bits ruin them."""


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
    _quantise(model, found, symmetric=symmetric)
    changed = count_quantised(model.graph)
    if not changed:
        raise CandidateError(
            "nothing was quantised: no operator of the main graph has an 8-bit kernel and constant weights"
        )
    return Built(storage.write(model, folder / "model.onnx"), changed, notes)


def count_quantised(graph: onnx.GraphProto) -> int:
    """Nodes that compute on values out of DequantizeLinear."""
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return sum(
        node.op_type not in ("QuantizeLinear", "DequantizeLinear") and any(name in dequantised for name in node.input)
        for node in graph.node
    )


def _activations(graph: onnx.GraphProto) -> list[str]:
    element_types = types.of(graph)
    constants = {tensor.name for tensor in graph.initializer}
    names = {
        name
        for node in graph.node
        if node.op_type in graphs.QUANTISABLE | PASSING
        for name in (*node.input, *node.output)
        if name and name not in constants and element_types.get(name) == TensorProto.FLOAT
    }
    return sorted(names)


def _quantise(model: onnx.ModelProto, found: dict[str, Range], *, symmetric: bool) -> None:
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    metadata = model.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")  # the types are known
    QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in found.items()},
        ),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted(graphs.QUANTISABLE | PASSING),
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": not symmetric},
    ).quantize_model()
    model.metadata_props.remove(metadata)
