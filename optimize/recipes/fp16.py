"""FP16 where it can hold the values: the graph's inputs and outputs stay FP32, and so does every node that would overflow.

A value has the precision of the node that makes it. A Cast is added only where a reader needs another one, so that two neighbours in
FP32 exchange a large value without a detour through FP16.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from optimize.errors import CandidateError
from optimize.recipes import onnx_files, placement, ranges
from optimize.recipes.element_types import complete_types, types_of
from optimize.recipes.fp16_operands import Positions, positions
from optimize.recipes.graph import (
    DEFAULT_DOMAINS,
    Names,
    bodies,
    captured,
    drop_unused,
    normalised,
    opset_of,
    rename_captured,
)
from optimize.recipes.nothing_changed import nothing_converted
from optimize.recipes.recipe_result import RecipeResult

LARGEST = float(np.finfo(np.float16).max)
_VANISHING = float(np.finfo(np.float16).smallest_subnormal) / 2

_KEPT = frozenset(
    {
        # their inner sums are larger than any value that the graph shows
        "CumSum", "LpNormalization", "LRN", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
        # they compute coordinates, and FP16 holds whole numbers only up to 2048
        "AffineGrid", "GridSample", "NonMaxSuppression", "RoiAlign", "Upsample",
        # their scales were measured in FP32
        "DequantizeLinear", "QuantizeLinear",
    }
)  # fmt: skip

_INDIFFERENT = frozenset({"Shape", "Size"})  # they read no values


def build(source: Path, folder: Path, calibration: Iterable[Mapping[str, npt.NDArray[Any]]] = ()) -> RecipeResult:
    """Convert the model at `source` into `folder`.

    With `calibration` samples, nodes whose values go beyond 65504 on them stay in FP32; without samples,
    only nodes with large weights do.

    Raises:
        CandidateError: Nothing was converted, or the samples do not run.
    """
    model, notes = normalised(source)
    chosen = _convertible(model)
    large = {tensor.name for tensor in model.graph.initializer if _is_large(tensor)}
    with tempfile.TemporaryDirectory(prefix="proveserve-") as name:
        written, *_ = onnx_files.write(model, Path(name) / "normalised.onnx")  # large weights leave memory here
        large |= _large_values(model.graph, written, chosen, calibration)
        model = onnx_files.read(written)
    overflowing = {index for index, where in chosen.items() if large.intersection(_values(model.graph, index, where))}
    if overflowing:
        notes = (*notes, f"{len(overflowing)} nodes stay in fp32, since their values go beyond 65504")
    _Writer(model.graph, {index: where for index, where in chosen.items() if index not in overflowing}).write()
    drop_unused(model.graph)
    complete_types(model)
    changed = count_converted(model.graph)
    if not changed:
        raise CandidateError(nothing_converted(model.graph))
    return RecipeResult(onnx_files.write(model, folder / "model.onnx"), changed, notes)


def count_converted(graph: onnx.GraphProto) -> int:
    """Nodes other than casts that write an FP16 value."""
    found = types_of(graph)
    return sum(
        node.op_type != "Cast" and any(found.get(name) == TensorProto.FLOAT16 for name in node.output)
        for node in graph.node
    )


def _convertible(model: onnx.ModelProto) -> dict[int, Positions]:
    """The inputs and outputs in FP16 of each node that may compute in it, by the node's index."""
    known = types_of(model.graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type in _KEPT or node.domain not in DEFAULT_DOMAINS or bodies(node):
            continue
        where = positions(node, known, opset_of(model))
        if where and where.outputs and not any(_vanishes(constants.get(name)) for name in node.input):
            found[index] = where
    return found


def _vanishes(tensor: onnx.TensorProto | None) -> bool:
    """Whether the tensor is a single small number, such as an epsilon that keeps a divisor from 0, which FP16 rounds to 0."""
    if tensor is None or tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) != 1:
        return False
    return 0 < abs(float(numpy_helper.to_array(tensor).item())) <= _VANISHING


def _values(graph: onnx.GraphProto, index: int, where: Positions) -> set[str]:
    """Names of the values that a node would read and write in FP16."""
    node = graph.node[index]
    return {
        *(node.input[position] for position in where.inputs),
        *(node.output[position] for position in where.outputs),
    }


def _large_values(
    graph: onnx.GraphProto,
    source: Path,
    chosen: Mapping[int, Positions],
    calibration: Iterable[Mapping[str, npt.NDArray[Any]]],
) -> set[str]:
    """Values that hold a finite number beyond FP16 on some sample; FP16 has infinity."""
    batches = [dict(batch) for batch in calibration]
    origins = _origins(graph)
    values = {name for index, where in chosen.items() for name in _values(graph, index, where)}
    measured = {origins.get(name, name) for name in values} - {tensor.name for tensor in graph.initializer}
    if not batches or not measured:
        return set()
    found = ranges.minmax(source, sorted(measured), batches)
    infinite = [name for name, (low, high) in found.items() if not np.isfinite([low, high]).all()]
    if infinite:
        found |= ranges.minmax(source, infinite, batches, finite=True)
    large = {name for name, (low, high) in found.items() if max(-low, high) > LARGEST}
    return {name for name in values if origins.get(name, name) in large}


def _origins(graph: onnx.GraphProto) -> dict[str, str]:
    """For each value that was only moved, the value that it was moved from, which is at least as large."""
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in placement.MOVING:
            found.update(dict.fromkeys(node.output, found.get(node.input[0], node.input[0])))
    return found


def _is_large(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = numpy_helper.to_array(tensor)
    return bool(np.abs(values[np.isfinite(values)]).max(initial=0.0) > LARGEST)


class _Writer:
    """Rewrites the nodes of one graph in execution order."""

    def __init__(self, graph: onnx.GraphProto, chosen: Mapping[int, Positions]) -> None:
        self._graph = graph
        self._chosen = chosen
        self._names = Names(graph)
        self._outputs = {value.name for value in graph.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._half: dict[str, str] = {}  # the name of a value in FP16
        self._single: dict[str, str] = {}  # the name in FP32 of a value that was made in FP16

    def write(self) -> None:
        nodes: list[onnx.NodeProto] = []
        for index, node in enumerate(self._graph.node):
            where = self._chosen.get(index, Positions((), ()))
            nodes.extend(self._cast_inputs(node, where))
            nodes.extend([node, *self._halve_outputs(node, where)])
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        kept = [value for value in self._graph.value_info if self._half.get(value.name) != value.name]
        del self._graph.value_info[:]
        self._graph.value_info.extend(kept)

    def _cast_inputs(self, node: onnx.NodeProto, where: Positions) -> Iterator[onnx.NodeProto]:
        for position, name in enumerate(node.input):
            if position in where.inputs:
                yield from self._halve(name)
                node.input[position] = self._half[name]
            elif name in self._half and node.op_type in _INDIFFERENT and node.domain in DEFAULT_DOMAINS:
                node.input[position] = self._half[name]
            elif self._half.get(name) == name:
                yield from self._widen(name)
                node.input[position] = self._single[name]
        for name in sorted(captured(node)):
            if self._half.get(name) == name:
                yield from self._widen(name)
                rename_captured(node, name, self._single[name])

    def _halve_outputs(self, node: onnx.NodeProto, where: Positions) -> Iterator[onnx.NodeProto]:
        for position in where.outputs:
            name = node.output[position]
            self._half[name] = name
            if name in self._outputs:
                # The graph's output keeps its name and stays FP32.
                self._half[name] = node.output[position] = self._names.fresh(f"{name}_fp16")
                yield self._cast(self._half[name], name, TensorProto.FLOAT)

    def _halve(self, name: str) -> Iterator[onnx.NodeProto]:
        if name in self._half:
            return
        self._half[name] = self._names.fresh(f"{name}_fp16")
        if name in self._constants:
            values = numpy_helper.to_array(self._constants[name]).astype(np.float16)
            self._graph.initializer.append(numpy_helper.from_array(values, self._half[name]))
        else:
            yield self._cast(name, self._half[name], TensorProto.FLOAT16)

    def _widen(self, name: str) -> Iterator[onnx.NodeProto]:
        if name not in self._single:
            self._single[name] = self._names.fresh(f"{name}_fp32")
            yield self._cast(name, self._single[name], TensorProto.FLOAT)

    def _cast(self, name: str, target: str, to: int) -> onnx.NodeProto:
        return helper.make_node("Cast", [name], [target], name=self._names.fresh(f"{target}_cast"), to=to)
