"""Which precisions on which runtimes apply to a model on this machine, and why the others do not."""

import importlib.util
from typing import Literal, get_args

from msgspec import Struct

from optimize.budgets import ModelBudgets, Precision, Target

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SOURCE: Literal["source"] = "source"
_RUNTIMES: dict[Target, str] = {
    "cpu": "onnxruntime-cpu",
    "cuda": "onnxruntime-cuda",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}
# Onnxruntime computes SkipLayerNormalization on the CPU in a scalar loop, several times slower than the Add and the
# LayerNormalization that it stands for (1.31, 128 rows of 384 values: 296 against about 60 microseconds).
_SLOWER_ON_CPU = "SkipLayerNormFusion"


class CandidateSpec(Struct, frozen=True):
    """One precision on one runtime; `reason` says why it does not apply, and is empty if it does."""

    precision: Precision
    target: Target
    reason: str = ""

    @property
    def runtime(self) -> str:
        """The runtime's name in the names of candidates and in reports."""
        return _RUNTIMES[self.target]

    @property
    def engine(self) -> bool:
        """Whether it is built for TensorRT, whose engines run only on the GPU that they were built for."""
        return self.target in ("tensorrt", "tensorrt-rtx")

    @property
    def name(self) -> str:
        """For example int8-static@onnxruntime-cpu."""
        return f"{self.precision}@{self.runtime}"


def disabled_optimizers(spec: CandidateSpec) -> tuple[str, ...]:
    """Graph optimisers of onnxruntime that make a candidate slower on its target."""
    return (_SLOWER_ON_CPU,) if spec.target == "cpu" else ()


def candidate_specs(
    budgets: ModelBudgets, rows: dict[str, int], providers: tuple[str, ...]
) -> tuple[CandidateSpec, ...]:
    """Every precision on every target of the model, simplest first, each with the reason if it does not apply.

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
