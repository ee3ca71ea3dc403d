"""Decide which nodes compute on 8-bit values, and so which values get a Q/DQ pair.

Operators with 8-bit arithmetic and constant weights are the anchors: their activations are quantised. Between two anchors a value
stays in 8 bits through operators that have 8-bit kernels, for example a residual sum or a pooling. All others, above all
normalisation and Softmax, compute in fp32.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from optimize.recipes.element_types import types_of
from optimize.recipes.graph import ANCHORS, attribute
from optimize.recipes.ranges import Range

MOVING = frozenset(
    {
        "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators that only move values: the quantised result has the scale of the input."""
COMBINING = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool"})
"""Operators that make new values, and have 8-bit kernels."""
FUSED = frozenset({"Clip", "Relu"})
"""Operators that every runtime folds into the one before, so that only their result is quantised."""
PASSING = MOVING | COMBINING | FUSED

_LARGEST = 1e30  # a mask's minus infinity lies beyond it, and leaves no steps for the other values


@dataclass(frozen=True)
class Placement:
    """Where Q/DQ pairs go.

    nodes: indices of the nodes that read quantised values.
    scales: by name of a quantised value, the value whose scale it has.
    rounded: values that every reader takes quantised, since their producer computes in 8 bits.
    """

    nodes: frozenset[int]
    scales: dict[str, str]
    rounded: frozenset[str]


class _Graph:
    """The facts about a graph that placement needs repeatedly."""

    def __init__(self, graph: onnx.GraphProto, ranges: Mapping[str, Range]) -> None:
        self.nodes = list(graph.node)
        self.outputs = {value.name for value in graph.output}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.readers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self.readers[name].append(index)
        self._types = types_of(graph)
        self._ranges = ranges

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Floating-point inputs that are not constants."""
        return [name for name in node.input if self._types.get(name) == TensorProto.FLOAT and name not in self.weights]

    def quantisable(self, name: str) -> bool:
        """Whether the value has a range that 255 steps can cover."""
        found = self._ranges.get(name)
        return found is not None and max(-found.low, found.high) < _LARGEST

    def end_of(self, name: str) -> str:
        """The value itself, or the result of the Relu or Clip that is its only reader and will be folded into its producer."""
        readers = self.readers[name]
        if len(readers) != 1 or name in self.outputs:
            return name
        reader = self.nodes[readers[0]]
        return reader.output[0] if reader.op_type in FUSED and reader.input[0] == name else name


def anchors(graph: onnx.GraphProto, *, asymmetric: bool) -> list[int]:
    """Indices of the nodes with 8-bit arithmetic and constant weights.

    A CPU (`asymmetric`) has no 8-bit kernel for a transposed convolution.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    wanted = ANCHORS - ({"ConvTranspose"} if asymmetric else set())
    return [index for index, node in enumerate(graph.node) if node.op_type in wanted and _has_weights(node, weights)]


def place(graph: onnx.GraphProto, ranges: Mapping[str, Range], *, asymmetric: bool) -> Placement:
    """Choose nodes and values, given the range of every value that may be quantised."""
    facts = _Graph(graph, ranges)
    chosen = [
        index
        for index in anchors(graph, asymmetric=asymmetric)
        if all(facts.quantisable(name) for name in facts.activations(facts.nodes[index])[:1])
        and (not asymmetric or len(facts.nodes[index].input) < 3 or has_vector_bias(facts.nodes[index], facts.weights))
    ]
    scales = {facts.nodes[index].input[0]: facts.nodes[index].input[0] for index in chosen}
    rounded = set()
    for index in chosen:
        end = facts.end_of(facts.nodes[index].output[0])
        if facts.nodes[index].op_type.startswith("Conv") and facts.quantisable(end):
            scales[end] = end
            rounded.add(end)
    passing = _passing(facts, scales, set(chosen))
    for index in passing:
        node = facts.nodes[index]
        for output in node.output:
            end = facts.end_of(output)
            scales[end] = scales[node.input[0]] if node.op_type in MOVING and end == output else end
            rounded.add(end)
    return Placement(frozenset(chosen) | frozenset(passing), scales, frozenset(rounded))


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of an anchor's weight along which the output's channels run."""
    match node.op_type:
        case "Conv":
            return 0
        case "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
    return 1  # ConvTranspose, MatMul


def has_vector_bias(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether the bias is constant with one value for all channels or one each, which is what integer kernels can add."""
    if len(node.input) < 3 or node.input[2] not in weights:
        return False
    return math.prod(weights[node.input[2]].dims) in (1, weights[node.input[1]].dims[channel_axis(node)])


def _has_weights(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    weight = weights.get(node.input[1])
    if weight is None or weight.data_type != TensorProto.FLOAT or node.input[0] in weights or len(weight.dims) < 2:
        return False
    return node.op_type != "Gemm" or not attribute(node, "transA", 0)


def _passing(facts: _Graph, scales: Mapping[str, str], chosen: set[int]) -> list[int]:
    """Indices of nodes that can keep a value in 8 bits on its way to another chosen node, in execution order."""
    quantised = set(scales)
    possible = []
    for index, node in enumerate(facts.nodes):
        inputs = facts.activations(node)
        ends = [facts.end_of(name) for name in node.output if name]
        if (
            is_passing(node)
            and inputs
            and inputs[0] == node.input[0]
            and quantised.issuperset(inputs)
            and not _has_float_constants(node, facts)
            and all(facts.quantisable(end) and end not in facts.outputs for end in ends)
        ):
            possible.append(index)
            quantised.update(ends)
    reading = set(chosen)
    for index in reversed(possible):
        ends = [facts.end_of(name) for name in facts.nodes[index].output]
        if any(reader in reading for end in ends for reader in facts.readers[end]):
            reading.add(index)
    return sorted(reading - chosen)


def is_passing(node: onnx.NodeProto) -> bool:
    """Whether runtimes have the operator in 8 bits; Resize only where it repeats values."""
    return node.op_type in PASSING and (node.op_type != "Resize" or attribute(node, "mode", b"nearest") == b"nearest")


def _has_float_constants(node: onnx.NodeProto, facts: _Graph) -> bool:
    """Whether a constant is an operand of the sum or concatenation."""
    return node.op_type in ("Add", "Concat") and any(name in facts.weights for name in node.input)
