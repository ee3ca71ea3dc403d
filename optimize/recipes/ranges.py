"""The range of values that each tensor takes on calibration samples.

The graph is extended to return the smallest and largest value of each tensor. Activations never leave onnxruntime, so memory is that
of one ordinary call for batches of any shape and number.
"""

import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from optimize.errors import CandidateError
from optimize.recipes import onnx_files
from optimize.recipes.calibration import Batch
from optimize.recipes.graph import Names, normalised
from optimize.recipes.onnxruntime_errors import onnxruntime_errors_as

_SILENT = 4


class Range(NamedTuple):
    """The least and greatest value seen; zero is always included, since quantised tensors must be able to hold it."""

    low: float
    high: float


def minmax(source: Path, tensors: Sequence[str], batches: Iterable[Batch], *, finite: bool = False) -> dict[str, Range]:
    """The range of each named tensor over the batches, or with `finite` that of its finite values.

    Raises:
        CandidateError: The graph does not run on a batch, or a value is NaN.
    """
    model, _ = normalised(source)
    outputs = _report_ranges(model, tensors, finite=finite)
    found = {name: Range(0.0, 0.0) for name in tensors}
    with tempfile.TemporaryDirectory(prefix="proveserve-") as folder:
        session = opened(model, Path(folder))
        for batch in batches:
            values = [float(value.item()) for value in run(session, outputs, batch)]
            for name, low, high in zip(tensors, values[::2], values[1::2], strict=True):
                if math.isnan(low) or math.isnan(high):
                    raise CandidateError(
                        f"value {name!r} is NaN on a calibration sample; the model cannot be calibrated"
                    )
                # The least value of an empty tensor is infinity and its greatest minus infinity: neither changes the range.
                found[name] = Range(min(found[name].low, low), max(found[name].high, high))
    return found


def _report_ranges(model: onnx.ModelProto, tensors: Sequence[str], *, finite: bool) -> list[str]:
    """Add two outputs for each tensor, its least and its greatest value, and return the outputs' names."""
    graph = model.graph
    names = Names(graph)
    zero = names.fresh("range_zero")
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), zero))
    outputs = []
    for tensor in tensors:
        value = tensor
        if finite:
            infinite, value = names.fresh(f"{tensor}_infinite"), names.fresh(f"{tensor}_finite")
            graph.node.append(helper.make_node("IsInf", [tensor], [infinite]))
            graph.node.append(helper.make_node("Where", [infinite, zero, tensor], [value]))
        for op_type in ("ReduceMin", "ReduceMax"):
            outputs.append(names.fresh(f"{tensor}_{op_type}"))
            graph.node.append(helper.make_node(op_type, [value], [outputs[-1]], keepdims=1))
            graph.output.append(onnx.ValueInfoProto(name=outputs[-1]))
    return outputs


def opened(model: onnx.ModelProto, folder: Path) -> ort.InferenceSession:
    """A session that returns the values of the graph as written; `model` may lose its weights."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _SILENT
    # Fusions would remove the values whose range is wanted.
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    path, *_ = onnx_files.write(model, folder / "calibration.onnx")
    with onnxruntime_errors_as(CandidateError, "onnxruntime cannot open the graph for calibration"):
        return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, outputs: Sequence[str], batch: Batch) -> list[Any]:
    """The named outputs for one batch."""
    with onnxruntime_errors_as(CandidateError, "the model does not run on a calibration batch"):
        return list(session.run(list(outputs), batch))
