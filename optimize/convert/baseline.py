"""From the source model to a baseline ONNX file that gives the same answers.

The FP32 graph is written, its signature is found by running it, and its answers are compared with the source's on real samples. All of
this runs in a child process, since it imports the user's code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from optimize.budgets import BATCH, Dim, ModelBudgets
from optimize.convert.onnx_export import copy_onnx, export_torch
from optimize.convert.output_specs import output_specs
from optimize.errors import ExecutionError, SourceError
from optimize.manifest import SessionOptions, Signature, TensorSpec
from optimize.runtime.session import OnnxSession
from optimize.source.loading import ANALYSIS_THREADS, declared_inputs
from optimize.source.model import is_onnx, load_torch
from optimize.source.model_ref import ModelRef, opened
from optimize.source.samples import SPLITS, Batch
from optimize.source.shaping import shaped
from optimize.source.split_file import read_split

BASELINE = "baseline.onnx"
# FP32 sums in another order differ by a few units in the last place per layer; a wrong graph differs by far more.
PARITY_RTOL, PARITY_ATOL = 1e-3, 1e-4
_DEFAULT_MAX_BATCH = 32


class Conversion(Struct, frozen=True):
    """The baseline's signature, and the largest difference from the source seen on real samples."""

    signature: Signature
    max_difference: float


def convert(budgets: ModelBudgets, base: Path, splits: Path, folder: Path) -> Conversion:
    """Write `folder`/baseline.onnx, find its signature and compare its answers with the source's on real samples.

    Raises:
        SourceError: The model cannot be converted, or its graph gives other answers.
    """
    stored = {split: read_split(path) for split in SPLITS if (path := splits / f"{split}.npz").exists()}
    batches = [batch for split in stored.values() for batch in split]
    inputs = declared_inputs(budgets, base)
    dims = _dims(budgets, inputs, batches)
    target = folder / BASELINE
    if is_onnx(budgets):
        copy_onnx(base / budgets.source, target)
    else:
        model = load_torch(budgets, base, ANALYSIS_THREADS)
        export_torch(model, inputs, shaped(inputs, batches, _traceable(dims)), target)
    with OnnxSession(target, SessionOptions(threads=ANALYSIS_THREADS)) as session:
        signature = Signature(inputs, output_specs(budgets, session, inputs, dims, batches), dims)
        difference = _parity(budgets, base, session, signature, batches)
    return Conversion(signature, difference)


def _dims(budgets: ModelBudgets, inputs: tuple[TensorSpec, ...], batches: list[Batch]) -> dict[str, Dim]:
    """Declared ranges; an undeclared dimension takes the sizes that the samples show."""
    dims = dict(budgets.dims)
    for spec in inputs:
        for axis, name in enumerate(spec.shape):
            if isinstance(name, int) or name in dims:
                continue
            seen = sorted(batch.inputs[spec.name].shape[axis] for batch in batches) or [1]
            dims[name] = (
                Dim(1, 1, _DEFAULT_MAX_BATCH) if name == BATCH else Dim(seen[0], seen[len(seen) // 2], seen[-1])
            )
    return dims


def check_latency_batch(rows: int, dims: Mapping[str, Dim]) -> None:
    """Refuse requests of a size that the model does not take, whether the range is declared or a default.

    Raises:
        SourceError: They are too large or too small.
    """
    taken = dims.get(BATCH, Dim())
    if not taken.min <= rows <= taken.max:
        why = (
            f"dims.batch goes from {taken.min} to {taken.max}"
            if BATCH in dims
            else "no input has an axis named `batch`"
        )
        raise SourceError(f"latency.batch = {rows}, but {why}; change latency.batch, or declare `inputs` and `dims`")


def _traceable(dims: Mapping[str, Dim]) -> dict[str, int]:
    """Sizes for tracing: at least 2, since the tracer takes a size of 1 (and of 0) for a constant."""
    return {name: max(2, dim.opt) for name, dim in dims.items()}


def _parity(
    budgets: ModelBudgets, base: Path, session: OnnxSession, signature: Signature, batches: list[Batch]
) -> float:
    """The largest absolute difference between graph and source at the smallest, `opt` and largest dims, on real samples."""
    worst = 0.0
    with opened(ModelRef(budgets, base, SessionOptions(threads=ANALYSIS_THREADS))) as source:
        for label in ("min", "opt", "max"):
            sizes = {name: getattr(dim, label) for name, dim in signature.dims.items()}
            inputs = shaped(signature.inputs, batches, sizes)
            try:
                expected = source.run(inputs)
            except ExecutionError as error:
                raise SourceError(f"the source model fails at {sizes}: {error}; check `dims`") from error
            answers = session.run(inputs)
            for name, value in expected.items():
                worst = max(worst, _difference(name, sizes, value, answers[name]))
    return worst


def _difference(name: str, sizes: Mapping[str, int], expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    at = f"output {name!r} at {dict(sizes)}"
    if expected.shape != got.shape:
        raise SourceError(f"{at}: the exported graph gives shape {list(got.shape)}, the source {list(expected.shape)}")
    if expected.dtype.kind not in "fc":
        if not np.array_equal(expected, got):
            raise SourceError(f"{at}: the exported graph gives other answers than the source")
        return 0.0
    if not np.allclose(got, expected, rtol=PARITY_RTOL, atol=PARITY_ATOL, equal_nan=True):
        raise SourceError(
            f"{at}: the exported graph differs from the source by {np.nanmax(np.abs(got - expected)):.3g}, wanted at most"
            f" {PARITY_ATOL:g} + {PARITY_RTOL:g} of the value; does the model branch on its input, or use random numbers?"
        )
    return float(np.nanmax(np.abs(got - expected), initial=0.0))
