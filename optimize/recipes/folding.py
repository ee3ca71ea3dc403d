"""Fold what a quantiser should see as one weight: batch normalisation into the convolution before it, and moved constants.

The sums stay the same up to rounding. Exporters leave different parts of this to the runtime, which is too late for a quantiser.
"""

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from optimize.arrays import Array
from optimize.recipes.graph import DEFAULT_DOMAINS, Names, attribute, captured, drop_unused, opset_of

_MOVES = frozenset({"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def fold(model: onnx.ModelProto) -> None:
    """Fold moved constants, then batch normalisation, in the main graph."""
    _fold_moves(model)
    _fold_normalisation(model.graph)
    drop_unused(model.graph)


def _fold_moves(model: onnx.ModelProto) -> None:
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        known = all(name in constants for name in node.input if name)
        if node.op_type not in _MOVES or node.domain not in DEFAULT_DOMAINS or not known or node.output[0] in outputs:
            kept.append(node)
            continue
        evaluator = ReferenceEvaluator(node, opsets={"": opset_of(model)})
        given = {name: numpy_helper.to_array(constants[name]) for name in node.input if name}
        (moved,) = evaluator.run(None, given)
        tensor = numpy_helper.from_array(np.ascontiguousarray(moved), node.output[0])
        constants[tensor.name] = tensor
        graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def _fold_normalisation(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in (*node.input, *captured(node)))
    readers.update(value.name for value in graph.output)
    makers = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    names = Names(graph)
    kept = []
    for node in graph.node:
        convolution = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if convolution is None or readers[node.input[0]] > 1 or not _is_constant(node, convolution, constants):
            kept.append(node)
            continue
        weight, bias = _folded(node, convolution, constants)
        hint = convolution.input[1]
        convolution.input[1:] = [names.fresh(f"{hint}_folded"), names.fresh(f"{hint}_folded_bias")]
        for name, values in zip(convolution.input[1:], (weight, bias), strict=True):
            graph.initializer.append(numpy_helper.from_array(values, name))
        convolution.output[0] = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)


def _is_constant(node: onnx.NodeProto, convolution: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    inference = not attribute(node, "training_mode", 0) and len(node.output) == 1
    operands = (*node.input[1:], *(name for name in convolution.input[1:] if name))
    return inference and all(name in constants for name in operands)


def _folded(
    node: onnx.NodeProto, convolution: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> tuple[Array, Array]:
    """Weight and bias of gain * (Conv(x) - mean) / sqrt(variance + epsilon) + shift."""
    gain, shift, mean, variance = (
        numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:5]
    )
    factor = gain / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    weight = numpy_helper.to_array(constants[convolution.input[1]])
    biased = len(convolution.input) > 2 and bool(convolution.input[2])
    bias = numpy_helper.to_array(constants[convolution.input[2]]) if biased else np.zeros(len(weight))
    shape = (-1, *[1] * (weight.ndim - 1))
    return (weight * factor.reshape(shape)).astype(np.float32), ((bias - mean) * factor + shift).astype(np.float32)
