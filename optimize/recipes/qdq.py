"""Write Q/DQ pairs into a graph: QuantizeLinear and DequantizeLinear on the placed values, and 8-bit weights."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from optimize.arrays import Array
from optimize.recipes import weights
from optimize.recipes.graph import ANCHORS, Names
from optimize.recipes.placement import Placement, channel_axis, has_vector_bias
from optimize.recipes.ranges import Range

_BIAS_STEPS = 2.0**30  # a bias is a 32-bit integer, and one bit is left for the sum it is added to


class Steps(NamedTuple):
    """real = (integer - zero) * scale."""

    scale: npt.NDArray[np.float32]
    zero: Array


def write(graph: onnx.GraphProto, placement: Placement, ranges: Mapping[str, Range], *, symmetric: bool) -> None:
    """Quantise the placed values and nodes of the graph in place.

    `symmetric` sets every zero point to 0 (int8) and leaves biases in fp32; otherwise activations are uint8 and biases int32.
    """
    _Writer(graph, placement, ranges, symmetric=symmetric).write()


def activation_steps(low: float, high: float, *, symmetric: bool) -> Steps:
    """The steps that cover `low` to `high`, with zero exactly on one."""
    if symmetric:
        scale = np.float32(max(-low, high) / 127)
        return Steps(np.asarray(scale or 1.0, np.float32), np.asarray(0, np.int8))
    scale = np.float32((high - low) / 255) or np.float32(1.0)
    return Steps(np.asarray(scale), np.asarray(np.clip(np.rint(-low / scale), 0, 255), np.uint8))


class _Writer:
    def __init__(
        self, graph: onnx.GraphProto, placement: Placement, ranges: Mapping[str, Range], *, symmetric: bool
    ) -> None:
        self._graph = graph
        self._placement = placement
        self._symmetric = symmetric
        self._names = Names(graph)
        self._outputs = {value.name for value in graph.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._steps = {
            root: activation_steps(*ranges[root], symmetric=symmetric) for root in set(placement.scales.values())
        }
        self._parameters: dict[str, list[str]] = {}
        self._weights: dict[tuple[str, int, bytes], list[str]] = {}
        self._dequantised: dict[str, str] = {}

    def write(self) -> None:
        nodes = [pair for value in self._graph.input for pair in self._pair(value.name, value.name)]
        for index, node in enumerate(self._graph.node):
            chosen = index in self._placement.nodes
            if chosen and node.op_type in ANCHORS:
                nodes.extend(self._quantise_weights(node))
            for position, name in enumerate(node.input):
                if chosen or name in self._placement.rounded:
                    node.input[position] = self._dequantised.get(name, name)
            pairs = [
                pair for position, name in enumerate(node.output) for pair in self._output_pair(node, position, name)
            ]
            nodes.extend([node, *pairs])
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _output_pair(self, node: onnx.NodeProto, position: int, name: str) -> Iterator[onnx.NodeProto]:
        if name not in self._placement.rounded or name not in self._outputs:
            return self._pair(name, name)
        # The graph's output keeps its name, so the value before it gets another one.
        node.output[position] = self._names.fresh(f"{name}_unrounded")
        return self._pair(name, node.output[position], rounded=name)

    def _pair(self, name: str, value: str, rounded: str | None = None) -> Iterator[onnx.NodeProto]:
        if name not in self._placement.scales:
            return
        parameters = self._activation_parameters(self._placement.scales[name])
        integers = self._names.fresh(f"{name}_quantized")
        self._dequantised[name] = rounded or self._names.fresh(f"{name}_dequantized")
        yield helper.make_node("QuantizeLinear", [value, *parameters], [integers], name=self._names.fresh(f"{name}_q"))
        yield helper.make_node(
            "DequantizeLinear", [integers, *parameters], [self._dequantised[name]], name=self._names.fresh(f"{name}_dq")
        )

    def _activation_parameters(self, root: str) -> list[str]:
        if root not in self._parameters:
            steps = self._steps[root]
            self._parameters[root] = [
                self._constant(f"{root}_scale", steps.scale),
                self._constant(f"{root}_zero_point", steps.zero),
            ]
        return self._parameters[root]

    def _quantise_weights(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        activation = self._steps[self._placement.scales[node.input[0]]].scale
        weight = self._array(node.input[1])
        integer_bias = not self._symmetric and has_vector_bias(node, self._constants)
        bias = self._array(node.input[2]) if integer_bias else None
        axis = channel_axis(node)
        if node.op_type == "Gemm":
            weight, bias = _without_factors(node, weight, bias)
        if bias is None:
            least: Array | float = 0.0
        else:
            bias = np.broadcast_to(bias.reshape(-1), weight.shape[axis])
            least = np.abs(bias) / (activation * _BIAS_STEPS)
        quantised = weights.per_channel(weight, axis, least)
        yield self._dequantise_weight(node, quantised, axis)
        if bias is not None:
            yield self._dequantise_bias(node, bias, quantised.scale * activation)

    def _dequantise_weight(self, node: onnx.NodeProto, quantised: weights.Int8, axis: int) -> onnx.NodeProto:
        name = node.input[1]
        key = (name, axis, quantised.scale.tobytes())
        if key not in self._weights:
            self._weights[key] = [
                self._constant(f"{name}_quantized", quantised.values),
                self._constant(f"{name}_scale", quantised.scale),
                self._constant(f"{name}_zero_point", np.zeros(quantised.scale.shape, np.int8)),
            ]
        return self._dequantise(node, 1, self._weights[key], axis)

    def _dequantise_bias(self, node: onnx.NodeProto, bias: Array, scale: Array) -> onnx.NodeProto:
        name = node.input[2]
        parameters = [
            self._constant(f"{name}_quantized", np.rint(bias / scale).astype(np.int32)),
            self._constant(f"{name}_scale", scale.astype(np.float32)),
            self._constant(f"{name}_zero_point", np.zeros(scale.shape, np.int32)),
        ]
        return self._dequantise(node, 2, parameters, 0)

    def _dequantise(self, node: onnx.NodeProto, position: int, parameters: list[str], axis: int) -> onnx.NodeProto:
        name = node.input[position]
        node.input[position] = self._names.fresh(f"{name}_dequantized")
        return helper.make_node(
            "DequantizeLinear", parameters, [node.input[position]], name=self._names.fresh(f"{name}_dq"), axis=axis
        )

    def _array(self, name: str) -> Array:
        return numpy_helper.to_array(self._constants[name])

    def _constant(self, hint: str, values: Array) -> str:
        name = self._names.fresh(hint)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name


def _without_factors(node: onnx.NodeProto, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """A Gemm's weight and constant bias multiplied by its factors, which integer kernels do not have."""
    kept = []
    for factor in node.attribute:
        if factor.name == "alpha":
            weight = weight * np.float32(factor.f)
        elif factor.name == "beta" and bias is not None:
            bias = bias * np.float32(factor.f)
        else:
            kept.append(factor)
    del node.attribute[:]
    node.attribute.extend(kept)
    return weight, bias
