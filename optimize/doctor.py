"""What this machine can build, run and measure, and what the targets of a budgets file need."""

import importlib.util
import sys

from msgspec import Struct

from optimize.budgets import Budgets, ModelBudgets, Target
from optimize.execution.machine import compute_capabilities, describe, tools

_NEEDED = {
    "onnxruntime": "runs ONNX artefacts; install proveserve[cpu] or proveserve[gpu]",
    "torch": "reads PyTorch sources; install proveserve[cpu]",
    "onnx": "writes candidates; install proveserve[cpu]",
    "ray": "serves and scores; install proveserve[cpu]",
    "locust": "load-tests; install proveserve[cpu]",
}
_DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Instruction sets that multiply and add 8-bit numbers in one step."""
_TENSORRT = "NVIDIA's tensorrt"
# What tensorrt-rtx builds for (https://developer.nvidia.com/cuda-gpus).
_GPUS = {
    "75": "Turing, such as T4 or GeForce RTX 20",
    "80": "Ampere, such as A100 or A30",
    "86": "Ampere, such as A10, A40 or GeForce RTX 30",
    "89": "Ada Lovelace, such as L4, L40S or GeForce RTX 40",
    "120": "Blackwell, such as RTX PRO 6000 or GeForce RTX 50",
    "121": "Blackwell, such as GB10 in the DGX Spark",
}


class Hardware(Struct, frozen=True):
    """The facts that decide which targets this machine can build and measure; `capabilities` are those of its GPUs."""

    instruction_sets: tuple[str, ...]
    capabilities: tuple[str, ...]
    providers: tuple[str, ...]
    installed: frozenset[str]


def diagnose() -> tuple[bool, list[str]]:
    """Whether the tool can work here, and one line per check."""
    if sys.platform != "linux":
        return False, [f"platform: {sys.platform}. Linux only: memory and processor are read from /proc"]
    machine = describe()
    lines = [
        "platform: linux",
        f"processor: {machine.cpu}, {machine.cores} cores, {machine.memory_mb:,} MB of memory",
        f"instruction sets: {', '.join(machine.instruction_sets) or 'none that matter here'}",
        _int8(machine.instruction_sets),
        f"GPUs: {', '.join(machine.devices) or 'none found (NVML)'}",
    ]
    lines += [f"{name}: {version}" for name, version in tools().items()]
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    lines += [f"{name}: missing; it {_NEEDED[name]}" for name in missing]
    if "onnxruntime" not in missing:
        lines.append(f"onnxruntime providers: {', '.join(_providers())}")
    return not missing, lines


def target_requirements(budgets: Budgets) -> list[str]:
    """A line for each target of each model: the hardware that it needs, and whether this machine has it. Linux only."""
    if sys.platform != "linux":
        return []
    here = Hardware(
        instruction_sets=describe().instruction_sets,
        capabilities=compute_capabilities(),
        providers=_providers(),
        installed=frozenset(
            name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name) is not None
        ),
    )
    return [line for name, model in budgets.models.items() for line in model_requirements(name, model, here)]


def model_requirements(name: str, model: ModelBudgets, here: Hardware) -> list[str]:
    """One line for each target of a model, and for each GPU that it names."""
    lines = []
    for target in dict.fromkeys(model.targets):
        if target == "tensorrt-rtx":
            lines += [f"{name}, {target}: {line}" for line in _rtx(model.compute_capabilities, here)]
        else:
            lines.append(f"{name}, {target}: {_requirement(target, model, here)}")
    return lines


def _requirement(target: Target, model: ModelBudgets, here: Hardware) -> str:
    if target == "cpu":
        return _cpu_requirement(model, here)
    wanted = "onnxruntime's GPU build" if target == "cuda" else _TENSORRT
    met = "CUDAExecutionProvider" in here.providers if target == "cuda" else "tensorrt" in here.installed
    lacking = [what for what, there in (("a CUDA GPU", bool(here.capabilities)), (wanted, met)) if not there]
    found = ("has both", f"lacks {''.join(lacking)}", "has neither")[len(lacking)]
    return f"needs a CUDA GPU and {wanted}; this machine {found}"


def _cpu_requirement(model: ModelBudgets, here: Hardware) -> str:
    if model.precisions is not None and not any(precision.startswith("int8") for precision in model.precisions):
        return "any processor will do"
    found = ", ".join(name for name in _DOT_PRODUCTS if name in here.instruction_sets)
    return f"int8 gains from 8-bit dot products (VNNI, AMX or ARM's own); this machine has {found or 'none'}"


def _rtx(capabilities: tuple[str, ...], here: Hardware) -> list[str]:
    """For each GPU that an engine is built for."""
    if not capabilities:
        return ['needs the compute capabilities of its GPUs; add compute_capabilities, such as ["89"]']
    built = "engines are built here" if "tensorrt_rtx" in here.installed else "install proveserve[rtx] to build engines"
    lines = []
    for capability in capabilities:
        if capability not in _GPUS:
            lines.append(f"no GPU has compute capability {capability!r}; wanted one of {', '.join(_GPUS)}")
            continue
        there = "is here" if capability in here.capabilities else "is not here"
        lines.append(f"needs compute capability {capability} ({_GPUS[capability]}), which {there}; {built}")
    return lines


def _providers() -> tuple[str, ...]:
    """Onnxruntime's providers, in its order of preference; none if it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    import onnxruntime  # noqa: PLC0415 - only where it is installed

    return tuple(onnxruntime.get_available_providers())


def _int8(sets: tuple[str, ...]) -> str:
    if set(_DOT_PRODUCTS) & set(sets):
        return "int8: has dot-product instructions, so int8 can be faster than fp32"
    return "int8: no dot-product instructions (VNNI), so int8 is often slower than fp32 here"
