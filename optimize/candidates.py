"""Which precision x runtime cells apply to a model on this machine, why the others don't, and how one is built."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from msgspec import Struct

from optimize.budgets import ModelBudgets, Precision, Target
from optimize.errors import CandidateError
from optimize.recipes.built import Built
from optimize.source import samples as sampling
from optimize.source.samples import Arrays

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SOURCE: Literal["source"] = "source"
_RUNTIMES: dict[Target, str] = {
    "cpu": "onnxruntime-cpu",
    "cuda": "onnxruntime-cuda",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}
_CALIBRATION_ROWS = 512


class Cell(Struct, frozen=True):
    """One precision on one runtime; `reason` says why it does not apply, and is empty where it does."""

    precision: Precision
    target: Target
    reason: str = ""

    @property
    def runtime(self) -> str:
        """The runtime's name in candidates' names and in reports."""
        return _RUNTIMES[self.target]

    @property
    def name(self) -> str:
        """Such as int8-static@onnxruntime-cpu."""
        return f"{self.precision}@{self.runtime}"


class Build(Struct, frozen=True):
    """What a recipe made: files in its folder (the model first), how many nodes changed precision, and remarks."""

    files: tuple[str, ...]
    changed: int
    notes: tuple[str, ...]


def grid(budgets: ModelBudgets, rows: dict[str, int], providers: tuple[str, ...]) -> tuple[Cell, ...]:
    """Every cell of the model's targets and precisions, in order of simplicity, each with the reason why it does not apply.

    `rows` are the samples per split, `providers` onnxruntime's providers on this machine.
    """
    cells = []
    for target in dict.fromkeys(budgets.targets):
        for precision in PRECISIONS:
            if budgets.precisions is not None and precision not in budgets.precisions:
                continue
            reason = (
                _unsupported(precision, target) or _unwanted(budgets, precision, target) or _missing(target, providers)
            )
            if precision == "int8-static" and not reason and not rows.get("calibration"):
                reason = "int8-static needs calibration samples; declare `data`"
            cells.append(Cell(precision, target, reason))
    return tuple(cells)


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


def _missing(target: Target, providers: tuple[str, ...]) -> str:
    if target == "cuda" and "CUDAExecutionProvider" not in providers:
        return "no GPU: this machine's onnxruntime offers no CUDAExecutionProvider"
    return ""


def build(cell: Cell, baseline: Path, calibration: Path, folder: Path) -> Build:
    """Make a cell's files in `folder` from the baseline graph.

    Raises:
        CandidateError: The recipe does not apply to this graph; the message is the cause.
    """
    built = _apply(cell, baseline, calibration, folder)
    if cell.precision != "fp32" and built.changed == 0:
        raise CandidateError(
            "nothing was quantised" if cell.precision.startswith("int8") else "nothing was converted to fp16"
        )
    return Build(tuple(path.name for path in built.files), built.changed, built.notes)


def _apply(cell: Cell, baseline: Path, calibration: Path, folder: Path) -> Built:
    # Recipes load onnx, so each is imported where it is used: in the child process that builds one candidate.
    if cell.target in ("tensorrt", "tensorrt-rtx"):
        raise CandidateError(f"{cell.runtime} engines cannot be built by this release")
    if cell.precision == "fp16":
        from optimize.recipes import fp16  # noqa: PLC0415

        return fp16.build(baseline, folder, _calibration(calibration))
    if cell.precision == "int8-dynamic":
        from optimize.recipes import int8_dynamic  # noqa: PLC0415

        return int8_dynamic.build(baseline, folder)
    if cell.precision == "int8-static":
        from optimize.recipes import int8_static  # noqa: PLC0415

        symmetric = cell.target != "cpu"
        return int8_static.build(baseline, folder, _calibration(calibration), symmetric=symmetric)
    from optimize.recipes import graph  # noqa: PLC0415

    target = folder / "model.onnx"
    notes = graph.prepare(baseline, target)
    return Built((target, *sorted(path for path in folder.iterdir() if path != target)), 0, notes)


def _calibration(path: Path) -> Iterator[Arrays]:
    """At most 512 rows of the calibration split, batch by batch; nothing where there are no samples."""
    seen = 0
    if not path.exists():
        return
    for batch in sampling.read(path):
        if seen >= _CALIBRATION_ROWS:
            return
        yield batch.inputs
        seen += len(batch.labels) if batch.labels is not None else 1
