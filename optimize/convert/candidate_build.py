"""Build one candidate's files from the baseline graph."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import Struct

from optimize.arrays import Arrays
from optimize.convert.candidate_specs import CandidateSpec, disabled_optimizers
from optimize.errors import CandidateError
from optimize.execution.machine import cores
from optimize.manifest import SessionOptions, Signature
from optimize.recipes.recipe_result import RecipeResult
from optimize.runtime.session import OnnxSession
from optimize.source.samples import row_count
from optimize.source.split_file import read_split

_CALIBRATION_ROWS = 512
# Next to the folders of what is built, for all builds to share, and removed like them when it is no longer used.
_TIMING_CACHE = "tensorrt.timing"
_CALIBRATIONS: tuple[Literal["minmax", "entropy", "percentile"], ...] = ("minmax", "entropy", "percentile")
_COMPARED_ROWS = 256
# Answers this close to the baseline's leave nothing that another calibration could win back.
_CLOSE_ENOUGH = 0.01


class BuiltCandidate(Struct, frozen=True):
    """What was built: files in its folder (the model first), how many nodes changed precision, and notes."""

    files: tuple[str, ...]
    changed: int
    notes: tuple[str, ...]


def build(
    spec: CandidateSpec,
    baseline: Path,
    calibration: Path,
    signature: Signature,
    capabilities: tuple[str, ...],
    folder: Path,
) -> BuiltCandidate:
    """Build a candidate's files in `folder` from the baseline graph.

    Raises:
        CandidateError: The recipe does not apply to this graph, as the message explains.
    """
    if spec.engine:
        built = _engine(spec, baseline, calibration, signature, capabilities, folder)
    else:
        built = _graph(spec, baseline, calibration, signature, folder)
    if spec.precision != "fp32" and built.changed == 0:
        raise CandidateError(
            "nothing was quantised" if spec.precision.startswith("int8") else "nothing was converted to fp16"
        )
    return BuiltCandidate(tuple(path.name for path in built.files), built.changed, built.notes)


def _engine(
    spec: CandidateSpec,
    baseline: Path,
    calibration: Path,
    signature: Signature,
    capabilities: tuple[str, ...],
    folder: Path,
) -> RecipeResult:
    """A TensorRT engine from the graph that states the spec's precision."""
    from optimize.recipes import tensorrt  # noqa: PLC0415 - as in _graph

    with tempfile.TemporaryDirectory() as name:
        typed = _graph(spec, baseline, calibration, signature, Path(name))
        library: Literal["tensorrt", "tensorrt-rtx"] = "tensorrt" if spec.target == "tensorrt" else "tensorrt-rtx"
        built = tensorrt.build(
            typed.files[0],
            folder,
            signature,
            library=library,
            compute_capabilities=capabilities,
            timing_cache=folder.with_name(_TIMING_CACHE),
        )
    targets = f"for compute capabilities {', '.join(capabilities)}" if capabilities else "for the GPU of this machine"
    return RecipeResult(built.files, built.changed, (*typed.notes, targets))


def _graph(spec: CandidateSpec, baseline: Path, calibration: Path, signature: Signature, folder: Path) -> RecipeResult:
    """An ONNX graph that states the spec's precision."""
    # Recipes load onnx, so each is imported where it is used: in the child process that builds one candidate.
    if spec.precision == "fp16":
        from optimize.recipes import fp16  # noqa: PLC0415

        return fp16.build(baseline, folder, _calibration(calibration, signature))
    if spec.precision == "int8-dynamic":
        from optimize.recipes import int8_dynamic  # noqa: PLC0415

        return int8_dynamic.build(baseline, folder)
    if spec.precision == "int8-static":
        return _closest_static(spec, baseline, list(_calibration(calibration, signature)), signature, folder)
    from optimize.recipes import graph  # noqa: PLC0415

    target = folder / "model.onnx"
    notes = graph.prepare(baseline, target)
    return RecipeResult((target, *sorted(path for path in folder.iterdir() if path != target)), 0, notes)


def _closest_static(
    spec: CandidateSpec, baseline: Path, samples: list[Arrays], signature: Signature, folder: Path
) -> RecipeResult:
    """The graph of the calibration method whose answers to the calibration samples are closest to the baseline's.

    No single method is best: minmax keeps outliers, entropy and percentile trade them for resolution.
    """
    from optimize.recipes import int8_static  # noqa: PLC0415

    if spec.engine or spec.target == "cuda":
        return int8_static.build(baseline, folder, samples, symmetric=True)
    compared = list(_first(samples, signature, _COMPARED_ROWS))
    options = SessionOptions(threads=cores(), disabled_optimizers=disabled_optimizers(spec))
    expected = _answers(baseline, options, compared)
    tried: list[tuple[float, str, RecipeResult]] = []
    with int8_static.calibrated(baseline, samples) as model:
        for method in _CALIBRATIONS:
            place = folder / method
            place.mkdir()
            built = model.write(place, method)
            distance = _distance(expected, _answers(built.files[0], options, compared))
            tried.append((distance, method, built))
            if tried[0][0] < _CLOSE_ENOUGH:
                break
    distance, closest, built = min(tried, key=lambda entry: entry[0])
    files = tuple(path.rename(folder / path.name) for path in built.files)
    for other in _CALIBRATIONS:
        shutil.rmtree(folder / other, ignore_errors=True)
    note = f"{closest} calibration came closest: its answers to the calibration samples differ by {distance:.2%} of their size"
    return RecipeResult(files, built.changed, (*built.notes, note))


def _answers(path: Path, options: SessionOptions, samples: Iterable[Arrays]) -> list[Arrays]:
    with OnnxSession(path, options) as session:
        return [session.run(inputs) for inputs in samples]


def _distance(expected: Iterable[Arrays], found: Iterable[Arrays]) -> float:
    """Root mean square of the answers' difference, relative to that of the expected answers; infinite if it is not finite."""
    error = size = 0.0
    for wanted, got in zip(expected, found, strict=True):
        for name in (name for name, value in wanted.items() if value.dtype.kind == "f"):
            error += float(np.square(wanted[name].astype(np.float64) - got[name]).sum())
            size += float(np.square(wanted[name].astype(np.float64)).sum())
    if not np.isfinite(error):
        return float("inf")
    return (error / size) ** 0.5 if size else 0.0


def _calibration(path: Path, signature: Signature) -> Iterator[Arrays]:
    """The first 512 rows of the calibration split, in whole batches; nothing if there are no samples."""
    batches = read_split(path) if path.exists() else []
    return _first((batch.inputs for batch in batches), signature, _CALIBRATION_ROWS)


def _first(batches: Iterable[Arrays], signature: Signature, rows: int) -> Iterator[Arrays]:
    """Whole batches until they hold `rows` rows; a batch may be a single row."""
    seen = 0
    for inputs in batches:
        if seen >= rows:
            return
        yield inputs
        seen += row_count(signature, inputs)
