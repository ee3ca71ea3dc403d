"""INT8 with fixed ranges: Q/DQ pairs around the operators with 8-bit kernels, with ranges from calibration samples."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import onnx
from onnx import TensorProto

from optimize.errors import CandidateError
from optimize.recipes import clipping, folding, histograms, noise, onnx_files, placement, qdq, ranges
from optimize.recipes.calibration import Batch, batch_axes, checked_batches, first_batches
from optimize.recipes.element_types import types_of
from optimize.recipes.embedding_tables import quantise_tables
from optimize.recipes.graph import ANCHORS, drop_unused, normalised
from optimize.recipes.nothing_changed import nothing_quantised
from optimize.recipes.recipe_result import RecipeResult

Method = Literal["minmax", "entropy", "percentile"]

_LEAST_OPSET = 13  # scales per channel
# At least; collecting reads every value, and the shape of a distribution settles before its extremes do.
_HISTOGRAM_ROWS = 128
_CLIPPING = {"entropy": clipping.entropy, "percentile": clipping.percentile}


def build(
    source: Path,
    folder: Path,
    calibration: Iterable[Mapping[str, npt.NDArray[Any]]],
    *,
    symmetric: bool = False,
    method: Method = "minmax",
) -> RecipeResult:
    """Quantise the model at `source` into `folder`.

    `symmetric` is what TensorRT and CUDA run: zero points 0 and biases in fp32. Without it activations are asymmetric, which uses
    the eight bits better on a CPU. Weights are symmetric per channel in both cases. `method` chooses each activation's range: all
    that was seen, or the part that :mod:`~optimize.recipes.clipping` keeps.

    Raises:
        CandidateError: The samples cannot calibrate, or nothing was quantised.
    """
    with calibrated(source, calibration, symmetric=symmetric) as model:
        return model.write(folder, method)


@contextmanager
def calibrated(
    source: Path, calibration: Iterable[Mapping[str, npt.NDArray[Any]]], *, symmetric: bool = False
) -> Iterator["Calibrated"]:
    """The model at `source` with the range of every value, ready to be written with one method or several.

    Raises:
        CandidateError: The samples cannot calibrate (random noise cannot), or no node can be quantised.
    """
    model, notes = normalised(source, least_opset=_LEAST_OPSET)
    folding.fold(model)
    if not placement.anchors(model.graph, asymmetric=not symmetric):
        raise CandidateError(nothing_quantised(model.graph))
    batches = checked_batches(model.graph, calibration)
    noise.refuse(batches)
    with tempfile.TemporaryDirectory(prefix="proveserve-") as name:
        folded, *_ = onnx_files.write(model, Path(name) / "folded.onnx")  # large weights leave memory here
        found = ranges.minmax(folded, _activations(model.graph), batches)
        placed = placement.place(model.graph, found, asymmetric=not symmetric)
        least = sum(1 for _ in first_batches(batches, batch_axes(model.graph), _HISTOGRAM_ROWS))
        yield Calibrated(folded, placed, found, batches, least, symmetric, notes)


@dataclass(frozen=True)
class Calibrated:
    """A model whose values' ranges are known, and where its Q/DQ pairs will be."""

    folded: Path
    placed: placement.Placement
    found: Mapping[str, ranges.Range]
    batches: Sequence[Batch]
    least_batches: int
    symmetric: bool
    notes: tuple[str, ...]

    @cached_property
    def _histograms(self) -> dict[str, clipping.Histogram]:
        """Of every value that is quantised."""
        quantised = {root: self.found[root] for root in set(self.placed.scales.values())}
        return histograms.collect(self.folded, quantised, self.batches, least=self.least_batches)

    def write(self, folder: Path, method: Method) -> RecipeResult:
        """Quantise into `folder`, with each activation's range chosen by `method`.

        Raises:
            CandidateError: Nothing was quantised.
        """
        found = dict(self.found)
        if method in _CLIPPING:
            found |= {root: _CLIPPING[method](histogram) for root, histogram in self._histograms.items()}
        model = onnx_files.read(self.folded)
        qdq.write(model.graph, self.placed, found, symmetric=self.symmetric)
        if not self.symmetric:
            quantise_tables(model.graph)  # TensorRT takes 8-bit integers from Q/DQ pairs only
        drop_unused(model.graph)
        changed = count_quantised(model.graph)
        if not changed:
            raise CandidateError(nothing_quantised(model.graph))
        return RecipeResult(onnx_files.write(model, folder / "model.onnx"), changed, self.notes)


def count_quantised(graph: onnx.GraphProto) -> int:
    """Nodes that runtimes compute in 8 bits: from quantised operands, or from and to quantised values, or from an 8-bit table."""
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    # A Relu or Clip before the rounding becomes part of the node before it.
    rounded |= {node.input[0] for node in graph.node if node.op_type in placement.FUSED and node.output[0] in rounded}
    count = 0
    for node in graph.node:
        if node.op_type in ANCHORS:
            count += dequantised.issuperset(node.input[:2])
        elif node.op_type == "Gather":
            count += node.input[0] in integers | dequantised
        elif placement.is_passing(node):
            count += node.input[0] in dequantised and rounded.issuperset(node.output)
    return count


def _activations(graph: onnx.GraphProto) -> list[str]:
    element_types = types_of(graph)
    constants = {tensor.name for tensor in graph.initializer}
    names = {
        name
        for node in graph.node
        if node.op_type in ANCHORS | placement.PASSING
        for name in (*node.input, *node.output)
        if name and name not in constants and element_types.get(name) == TensorProto.FLOAT
    }
    return sorted(names)
