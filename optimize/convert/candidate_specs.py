"""Which precision x runtime specs apply to a model on this machine, why the others don't, and how one is built."""

import importlib.util
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from msgspec import Struct

from optimize.arrays import Arrays
from optimize.budgets import ModelBudgets, Precision, Target
from optimize.errors import CandidateError
from optimize.execution.machine import cores
from optimize.manifest import SessionOptions, Signature
from optimize.recipes.built import Built
from optimize.runtime.session import OnnxSession
from optimize.source import samples as sampling

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SOURCE: Literal["source"] = "source"
_RUNTIMES: dict[Target, str] = {
    "cpu": "onnxruntime-cpu",
    "cuda": "onnxruntime-cuda",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}
_CALIBRATION_ROWS = 512
# Beside the folders of what is built, for all builds to share, and swept away like them where nobody uses it.
_TIMING_CACHE = "tensorrt.timing"
_CALIBRATIONS: tuple[Literal["minmax", "entropy", "percentile"], ...] = ("minmax", "entropy", "percentile")
_COMPARED_ROWS = 256
# Answers this close to the baseline's leave nothing that another calibration could win back.
_CLOSE_ENOUGH = 0.01
# Onnxruntime computes SkipLayerNormalization on the CPU in a scalar loop, several times slower than the Add and the
# LayerNormalization that it stands for (1.31, 128 rows of 384 values: 296 against about 60 microseconds).
_SLOWER_ON_CPU = "SkipLayerNormFusion"


class CandidateSpec(Struct, frozen=True):
    """One precision on one runtime; `reason` says why it does not apply, and is empty where it does."""

    precision: Precision
    target: Target
    reason: str = ""

    @property
    def runtime(self) -> str:
        """The runtime's name in candidates' names and in reports."""
        return _RUNTIMES[self.target]

    @property
    def engine(self) -> bool:
        """Whether it is built for TensorRT, which runs on the GPU that it was built for alone."""
        return self.target in ("tensorrt", "tensorrt-rtx")

    @property
    def name(self) -> str:
        """Such as int8-static@onnxruntime-cpu."""
        return f"{self.precision}@{self.runtime}"


class BuiltCandidate(Struct, frozen=True):
    """What a recipe made: files in its folder (the model first), how many nodes changed precision, and remarks."""

    files: tuple[str, ...]
    changed: int
    notes: tuple[str, ...]


def disabled_optimizers(spec: CandidateSpec) -> tuple[str, ...]:
    """Graph optimisers of onnxruntime that a spec is better off without."""
    return (_SLOWER_ON_CPU,) if spec.target == "cpu" else ()


def grid(budgets: ModelBudgets, rows: dict[str, int], providers: tuple[str, ...]) -> tuple[CandidateSpec, ...]:
    """Every spec of the model's targets and precisions, in order of simplicity, each with the reason why it does not apply.

    `rows` are the samples per split, `providers` onnxruntime's providers on this machine.
    """
    specs = []
    for target in dict.fromkeys(budgets.targets):
        for precision in PRECISIONS:
            if budgets.precisions is not None and precision not in budgets.precisions:
                continue
            reason = (
                _unsupported(precision, target)
                or _unwanted(budgets, precision, target)
                or _missing(target, providers, budgets.compute_capabilities)
            )
            if precision == "int8-static" and not reason and not rows.get("calibration"):
                reason = "int8-static needs calibration samples; declare `data`"
            specs.append(CandidateSpec(precision, target, reason))
    return tuple(specs)


def _unsupported(precision: Precision, target: Target) -> str:
    if precision == "int8-dynamic" and target == "cuda":
        return "onnxruntime has no CUDA kernels for dynamically quantised operators"
    if precision == "int8-dynamic" and target in ("tensorrt", "tensorrt-rtx"):
        return "TensorRT supports neither DynamicQuantizeLinear nor MatMulInteger"
    return ""


def _unwanted(budgets: ModelBudgets, precision: Precision, target: Target) -> str:
    if precision == "fp16" and target == "cpu" and budgets.precisions is None:
        return "slower than fp32 on most CPUs; list it in `precisions` to try it"
    if precision == "int8-dynamic" and budgets.batch_invariant:
        return "its answer to a row depends on its batch, and batch_invariant = true"
    return ""


def _missing(target: Target, providers: tuple[str, ...], capabilities: tuple[str, ...]) -> str:
    if target == "cuda" and "CUDAExecutionProvider" not in providers:
        return "no GPU: this machine's onnxruntime offers no CUDAExecutionProvider"
    if target == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        return "tensorrt is not installed; it comes from NVIDIA, for machines with a GPU"
    if target == "tensorrt-rtx" and importlib.util.find_spec("tensorrt_rtx") is None:
        return "tensorrt-rtx is not installed; install proveserve[rtx]"
    if target == "tensorrt-rtx" and not capabilities:
        return 'no GPU to build for; declare compute_capabilities, such as ["89"]'
    return ""


def build(
    spec: CandidateSpec,
    baseline: Path,
    calibration: Path,
    signature: Signature,
    capabilities: tuple[str, ...],
    folder: Path,
) -> BuiltCandidate:
    """Make a spec's files in `folder` from the baseline graph.

    Raises:
        CandidateError: The recipe does not apply to this graph; the message is the cause.
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
) -> Built:
    """A TensorRT engine from the graph that states the spec's precision."""
    from optimize.recipes import tensorrt  # noqa: PLC0415 - as below

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
    return Built(built.files, built.changed, (*typed.notes, targets))


def _graph(spec: CandidateSpec, baseline: Path, calibration: Path, signature: Signature, folder: Path) -> Built:
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
    return Built((target, *sorted(path for path in folder.iterdir() if path != target)), 0, notes)


def _closest_static(
    spec: CandidateSpec, baseline: Path, samples: list[Arrays], signature: Signature, folder: Path
) -> Built:
    """The graph of the calibration method whose answers to the calibration samples are closest to the baseline's.

    No single method is best: minmax keeps outliers, entropy and percentile trade them for resolution.
    """
    from optimize.recipes import int8_static  # noqa: PLC0415

    if spec.engine or spec.target == "cuda":
        return int8_static.build(baseline, folder, samples, symmetric=True)
    compared = list(_first(samples, signature, _COMPARED_ROWS))
    options = SessionOptions(threads=cores(), disabled_optimizers=disabled_optimizers(spec))
    expected = _answers(baseline, options, compared)
    trials: list[tuple[float, str, Built]] = []
    with int8_static.calibrated(baseline, samples) as model:
        for method in _CALIBRATIONS:
            place = folder / method
            place.mkdir()
            built = model.write(place, method)
            distance = _distance(expected, _answers(built.files[0], options, compared))
            trials.append((distance, method, built))
            if trials[0][0] < _CLOSE_ENOUGH:
                break
    distance, closest, built = min(trials, key=lambda trial: trial[0])
    files = tuple(path.rename(folder / path.name) for path in built.files)
    for other in _CALIBRATIONS:
        shutil.rmtree(folder / other, ignore_errors=True)
    note = f"{closest} calibration came closest: its answers to the calibration samples are off by {distance:.2%} of their size"
    return Built(files, built.changed, (*built.notes, note))


def _answers(path: Path, options: SessionOptions, samples: Iterable[Arrays]) -> list[Arrays]:
    with OnnxSession(path, options) as session:
        return [session.run(inputs) for inputs in samples]


def _distance(expected: Iterable[Arrays], found: Iterable[Arrays]) -> float:
    """Root mean square of the answers' difference over that of the expected ones; infinite where it is no number."""
    error = size = 0.0
    for wanted, got in zip(expected, found, strict=True):
        for name in (name for name, value in wanted.items() if value.dtype.kind == "f"):
            error += float(np.square(wanted[name].astype(np.float64) - got[name]).sum())
            size += float(np.square(wanted[name].astype(np.float64)).sum())
    if not np.isfinite(error):
        return float("inf")
    return (error / size) ** 0.5 if size else 0.0


def _calibration(path: Path, signature: Signature) -> Iterator[Arrays]:
    """The first 512 rows of the calibration split, in whole batches; nothing where there are no samples."""
    batches = sampling.read(path) if path.exists() else []
    return _first((batch.inputs for batch in batches), signature, _CALIBRATION_ROWS)


def _first(batches: Iterable[Arrays], signature: Signature, rows: int) -> Iterator[Arrays]:
    """Whole batches until they hold that many rows; a batch may be a single row."""
    seen = 0
    for inputs in batches:
        if seen >= rows:
            return
        yield inputs
        seen += sampling.row_count(signature, inputs)
