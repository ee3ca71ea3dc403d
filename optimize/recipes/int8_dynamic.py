"""INT8 with ranges found at run time: 8-bit weights, activations quantised in every call. It needs no calibration samples.

Conv stays in fp32: onnxruntime's ConvInteger takes 1.3 to 2 times as long as its fp32 Conv.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from optimize.arrays import Array
from optimize.errors import CandidateError
from optimize.recipes import folding, onnx_files, placement, weights
from optimize.recipes.embedding_tables import quantise_tables
from optimize.recipes.graph import ANCHORS, Names, attribute, drop_unused, import_domain, normalised
from optimize.recipes.nothing_changed import nothing_quantised
from optimize.recipes.recipe_result import RecipeResult

_MULTIPLYING = frozenset({"Gemm", "MatMul"})
_MICROSOFT = "com.microsoft"
_LEAST_OPSET = 11  # DynamicQuantizeLinear


def build(source: Path, folder: Path) -> RecipeResult:
    """Quantise the MatMul, Gemm and LSTM nodes and the embedding tables of the model at `source` into `folder`.

    Raises:
        CandidateError: Nothing was quantised.
    """
    model, notes = normalised(source, least_opset=_LEAST_OPSET)
    folding.fold(model)
    left = Counter(node.op_type for node in model.graph.node if node.op_type in ANCHORS - _MULTIPLYING)
    quantise_tables(model.graph)
    _Writer(model).write()
    drop_unused(model.graph)
    changed = count_quantised(model.graph)
    if not changed:
        raise CandidateError(nothing_quantised(model.graph))
    remarks = (f"{count} {op_type} stay in fp32, which is faster on a CPU" for op_type, count in sorted(left.items()))
    return RecipeResult(onnx_files.write(model, folder / "model.onnx"), changed, (*notes, *remarks))


def count_quantised(graph: onnx.GraphProto) -> int:
    """Nodes that compute on 8-bit weights."""
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    return sum(any(name in integers for name in node.input) for node in graph.node)


class _Writer:
    """Rewrites the nodes of one graph in execution order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._graph = model.graph
        self._names = Names(model.graph)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._activations: dict[str, list[str]] = {}
        self._weights: dict[tuple[str, bool, float], list[str]] = {}

    def write(self) -> None:
        chosen = set(placement.anchors(self._graph, asymmetric=True))
        nodes: list[onnx.NodeProto] = []
        for index, node in enumerate(self._graph.node):
            if index in chosen and node.op_type in _MULTIPLYING and len(self._constants[node.input[1]].dims) == 2:
                nodes.extend(self._multiply(node))
            elif node.op_type == "LSTM" and self._fits(node):
                nodes.append(self._lstm(node))
            else:
                nodes.append(node)
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _multiply(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The chain of nodes that onnxruntime fuses into one, DynamicQuantizeMatMul or MatMulIntegerToFloat."""
        result = node.output[0]
        biased = len(node.input) > 2 and bool(node.input[2])
        product = self._names.fresh(f"{result}_unbiased") if biased else result
        if node.input[0] not in self._activations:
            yield self._quantise_activation(node.input[0])
        integers, scale, zero = self._activations[node.input[0]]
        weight, weight_scale = self._weight(node)
        total, real, steps = (self._names.fresh(f"{result}_{part}") for part in ("quantized", "unscaled", "scale"))
        yield self._node("MatMulInteger", [integers, weight, zero], total)
        yield self._node("Cast", [total], real, to=TensorProto.FLOAT)
        yield self._node("Mul", [scale, weight_scale], steps)
        yield self._node("Mul", [real, steps], product)
        if biased:
            yield from self._add_bias(node, product)

    def _quantise_activation(self, name: str) -> onnx.NodeProto:
        outputs = [self._names.fresh(f"{name}_{part}") for part in ("quantized", "scale", "zero_point")]
        self._activations[name] = outputs
        return helper.make_node("DynamicQuantizeLinear", [name], outputs, name=self._names.fresh(f"{name}_quantize"))

    def _weight(self, node: onnx.NodeProto) -> list[str]:
        name, transposed, alpha = node.input[1], bool(attribute(node, "transB", 0)), attribute(node, "alpha", 1.0)
        key = (name, transposed, alpha)
        if key not in self._weights:
            values = numpy_helper.to_array(self._constants[name]) * np.float32(alpha)
            quantised = weights.per_channel(values.T if transposed else values, 1)
            self._weights[key] = [
                self._constant(f"{name}_quantized", np.ascontiguousarray(quantised.values)),
                self._constant(f"{name}_scale", quantised.scale),
            ]
        return self._weights[key]

    def _add_bias(self, node: onnx.NodeProto, product: str) -> Iterator[onnx.NodeProto]:
        bias, beta = node.input[2], attribute(node, "beta", 1.0)
        if beta != 1.0:
            factor = self._constant(f"{bias}_factor", np.asarray(beta, np.float32))
            scaled = self._names.fresh(f"{bias}_scaled")
            yield self._node("Mul", [bias, factor], scaled)
            bias = scaled
        yield self._node("Add", [product, bias], node.output[0])

    def _fits(self, node: onnx.NodeProto) -> bool:
        constant = all(name in self._constants for name in node.input[1:3])
        return constant and not attribute(node, "layout", 0)

    def _lstm(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """The LSTM of onnxruntime that takes 8-bit weights, laid out as [directions, inputs, 4 * hidden]."""
        parameters = []
        for position in (1, 2):
            values = numpy_helper.to_array(self._constants[node.input[position]]).transpose(0, 2, 1)
            parts = [weights.per_channel(direction, 1) for direction in values]
            hint = node.input[position]
            node.input[position] = self._constant(f"{hint}_quantized", np.stack([part.values for part in parts]))
            scale = np.stack([part.scale for part in parts])
            parameters.append(self._constant(f"{hint}_scale", scale))
            parameters.append(self._constant(f"{hint}_zero_point", np.zeros(scale.shape, np.int8)))
        node.input.extend([""] * (8 - len(node.input)))
        node.input.extend(parameters)
        node.op_type, node.domain = "DynamicQuantizeLSTM", _MICROSOFT
        import_domain(self._model, _MICROSOFT)
        return node

    def _node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op_type, inputs, [output], name=self._names.fresh(f"{output}_{op_type}"), **attributes)

    def _constant(self, hint: str, values: Array) -> str:
        name = self._names.fresh(hint)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name
