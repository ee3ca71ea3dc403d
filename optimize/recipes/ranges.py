"""The range of values that each tensor takes on calibration samples.

The graph is extended so that it reports the smallest and largest value of each tensor itself: activations never leave
onnxruntime, so memory is that of one ordinary call, whatever the shapes of the batches and however many there are.
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from optimize.errors import CandidateError
from optimize.recipes import graph as graphs
from optimize.recipes import storage
from optimize.recipes.calibration import Batch

_SILENT = 4
_PREFIX = "proveserve_range"


class Range(NamedTuple):
    """The least and greatest value seen; zero is always inside, since quantised tensors must be able to hold it."""

    low: float
    high: float


def minmax(source: Path, tensors: Sequence[str], batches: Iterable[Batch], *, finite: bool = False) -> dict[str, Range]:
    """The range of each named tensor over the batches, or with `finite` that of its finite values.

    Raises:
        CandidateError: The graph does not run on a batch, or a value is NaN.
    """
    model, _ = graphs.normalised(source)
    outputs = _report_ranges(model, tensors, finite=finite)
    found = {name: Range(0.0, 0.0) for name in tensors}
    with tempfile.TemporaryDirectory(prefix="proveserve-") as folder:
        session = opened(model, Path(folder))
        for batch in batches:
            for name, (low, high) in zip(tensors, run(session, outputs, batch), strict=True):
                if np.isnan(low) or np.isnan(high):
                    raise CandidateError(
                        f"value {name!r} is NaN on a calibration sample; the model cannot be calibrated"
                    )
                found[name] = Range(min(found[name].low, float(low)), max(found[name].high, float(high)))
    return found


def _report_ranges(model: onnx.ModelProto, tensors: Sequence[str], *, finite: bool) -> list[str]:
    """Add an output of two values, least and greatest, for each tensor, and return the outputs' names."""
    graph = model.graph
    flat, zero = f"{_PREFIX}_flat", f"{_PREFIX}_zero"
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), flat))
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), zero))
    outputs = []
    for index, tensor in enumerate(tensors):
        name = f"{_PREFIX}_{index}"
        value = tensor
        if finite:
            value = f"{name}_finite"
            graph.node.append(helper.make_node("IsInf", [tensor], [f"{name}_infinite"]))
            graph.node.append(helper.make_node("Where", [f"{name}_infinite", zero, tensor], [value]))
        # With a zero among them there are always values, even where a tensor is empty.
        graph.node.extend(
            [
                helper.make_node("Reshape", [value, flat], [f"{name}_flat"]),
                helper.make_node("Concat", [f"{name}_flat", zero], [f"{name}_all"], axis=0),
                helper.make_node("ReduceMin", [f"{name}_all"], [f"{name}_low"], keepdims=1),
                helper.make_node("ReduceMax", [f"{name}_all"], [f"{name}_high"], keepdims=1),
                helper.make_node("Concat", [f"{name}_low", f"{name}_high"], [name], axis=0),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]))
        outputs.append(name)
    return outputs


def opened(model: onnx.ModelProto, folder: Path) -> ort.InferenceSession:
    """A session that gives the values of the graph as written; the weights of `model` may be gone afterwards."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _SILENT
    # Fusions would swallow the very values whose range is asked for.
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    path, *_ = storage.write(model, folder / "calibration.onnx")
    try:
        return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime raises a dozen unrelated classes for a bad graph
        raise CandidateError(f"onnxruntime cannot open the graph for calibration: {_first_line(error)}") from None


def run(session: ort.InferenceSession, outputs: Sequence[str], batch: Batch) -> list[Any]:
    """The named outputs for one batch."""
    try:
        return list(session.run(list(outputs), batch))
    except Exception as error:  # noqa: BLE001 - onnxruntime raises a dozen unrelated classes for a bad input
        raise CandidateError(f"the model does not run on a calibration batch: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
