"""Turn a model into an ONNX graph that every recipe and runtime can read, without changing what it computes.

Exporters leave what a quantiser skips silently: weights in Constant nodes, values of unknown type, local functions, and output names
that are defined twice. :func:`prepare` fixes these and notes what it cannot fix.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, version_converter

from optimize.errors import CandidateError, SourceError
from optimize.recipes import onnx_files
from optimize.recipes.element_types import complete_types

ANCHORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with 8-bit arithmetic, the reason to quantise a graph."""

DEFAULT_DOMAINS = ("", "ai.onnx")


class Names:
    """Names that are taken in a graph and its bodies."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        graphs = [graph, *(body for node in walk(graph) for body in bodies(node))]
        self._taken = {tensor.name for inner in graphs for tensor in inner.initializer}
        self._taken |= {value.name for inner in graphs for value in (*inner.input, *inner.output)}
        self._taken |= {name for node in walk(graph) for name in (node.name, *node.input, *node.output)}

    def fresh(self, hint: str) -> str:
        """`hint`, with a number appended if it is taken; the name is taken from now on."""
        number = 0
        name = hint
        while name in self._taken:
            number += 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        return name


def prepare(source: Path, target: Path) -> tuple[str, ...]:
    """Write the FP32 model at `source` in a form that recipes can work on, and return notes on what they cannot reach.

    Names of inputs and outputs stay. Weights beyond protobuf's limit are written next to `target`, named by their digest.

    Raises:
        SourceError: The model is not ONNX, is contradictory, or uses an operator that onnxruntime does not have.
    """
    model, notes = normalised(source)
    onnx_files.write(model, target)
    return notes


def normalised(source: Path, *, least_opset: int = 0) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The prepared model in memory, with the notes of :func:`prepare`; preparing it again changes nothing.

    `least_opset` is the ONNX version that a recipe's operators need; an older model is converted to it.
    """
    model = onnx_files.read(source)
    if model.functions:
        model = inliner.inline_local_functions(model)
    if opset_of(model) < least_opset:
        model = _raised(model, least_opset)
    keep_weights_constant(model)
    rename_redefined(model.graph)
    lift_constants(model.graph)
    complete_types(model)
    return model, tuple(body_notes(model.graph))


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that the model uses."""
    return next((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), 1)


def import_domain(model: onnx.ModelProto, domain: str, version: int = 1) -> None:
    """Declare that the model uses the operators of another domain."""
    if all(entry.domain != domain for entry in model.opset_import):
        model.opset_import.add(domain=domain, version=version)


def keep_weights_constant(model: onnx.ModelProto) -> None:
    """Remove initialisers from the inputs, where the oldest files list them and any file may, as replaceable defaults."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)


def rename_redefined(graph: onnx.GraphProto) -> None:
    """Rename inner values that have the name of an output.

    An exporter that is asked to name an output `add` may already have an inner value `add`. Nodes are in execution order, so a
    read before the output's definition means the inner value.

    Raises:
        SourceError: A later node reads the name too, so that it is unclear which value is meant.
    """
    names = Names(graph)
    outer = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    written = Counter(name for node in graph.node for name in node.output if name)
    for name in [name for name, count in written.items() if count > 1 or name in outer]:
        last = max(index for index, node in enumerate(graph.node) if name in node.output)
        reads_later = any(name in _reads(node) for node in graph.node[last + 1 :])
        if name in outer or reads_later or name not in {value.name for value in graph.output}:
            raise SourceError(
                f"value {name!r} is defined more than once in the graph; export the model with other output names"
            )
        fresh = names.fresh(f"{name}_inner")
        for node in graph.node[:last]:
            _rename(node, name, fresh)
        _rename_reads(graph.node[last], name, fresh)


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn every Constant node into an initialiser, since quantisers look for weights only there."""
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        tensor = _constant_value(node) if node.output[0] not in outputs else None
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def body_notes(graph: onnx.GraphProto) -> Iterator[str]:
    """A note on quantisable nodes inside If, Loop and Scan bodies, which no recipe reaches."""
    inside = Counter(
        node.op_type for owner in graph.node for body in bodies(owner) for node in walk(body) if node.op_type in ANCHORS
    )
    for op_type, count in sorted(inside.items()):
        yield f"{count} {op_type} inside If, Loop or Scan bodies stay in fp32"


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds: branches of an If, the body of a Loop or Scan."""
    return [graph for attribute in node.attribute for graph in [*attribute.graphs, *_single(attribute)]]


def walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph and of the bodies inside it."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from walk(body)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the operator's default."""
    return next((helper.get_attribute_value(found) for found in node.attribute if found.name == name), default)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the initialisers that no node reads."""
    used = {name for node in graph.node for name in _reads(node)} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _raised(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    try:
        return version_converter.convert_version(model, least)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CandidateError(
            f"the model is written in opset {opset_of(model)}, and converting it to {least} failed ({reason}); export it with"
            f" opset {least} or newer"
        ) from None


def _single(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else []


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant" or node.domain not in DEFAULT_DOMAINS or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    match attribute.name:
        case "value":
            copy = onnx.TensorProto()
            copy.CopyFrom(attribute.t)
            return copy
        case "value_float" | "value_floats":
            return numpy_helper.from_array(np.asarray(helper.get_attribute_value(attribute), np.float32))
        case "value_int" | "value_ints":
            return numpy_helper.from_array(np.asarray(helper.get_attribute_value(attribute), np.int64))
    return None  # strings and sparse tensors are not weights


def captured(node: onnx.NodeProto) -> set[str]:
    """Names that the bodies of a node read, some of which are values of the graph around it."""
    names = {value.name for body in bodies(node) for value in body.output}
    return names.union(*(_reads(inner) for body in bodies(node) for inner in body.node))


def rename_captured(node: onnx.NodeProto, old: str, new: str) -> None:
    """Make the bodies of a node read another value."""
    for body in bodies(node):
        for inner in body.node:
            _rename(inner, old, new)
        for value in body.output:
            value.name = new if value.name == old else value.name


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, itself or from within its bodies."""
    return captured(node).union(node.input)


def _rename(node: onnx.NodeProto, old: str, new: str) -> None:
    _rename_reads(node, old, new)
    node.output[:] = [new if name == old else name for name in node.output]


def _rename_reads(node: onnx.NodeProto, old: str, new: str) -> None:
    node.input[:] = [new if name == old else name for name in node.input]
    rename_captured(node, old, new)
