"""What this machine is, and what it can run."""

import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from optimize.manifest import Machine

# The instruction sets that decide how fast, and with which rounding, a quantised model runs.
_RELEVANT = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
_TOOLS = (
    "proveserve",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "torch",
    "tensorrt",
    "tensorrt-rtx",
)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> Machine:
    """The processor, cores, memory, relevant instruction sets and GPUs."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return Machine(
        cpu=fields.get("model name", platform.processor() or platform.machine()),
        cores=cores(),
        memory_mb=round(psutil.virtual_memory().total / 1e6),
        instruction_sets=tuple(name for name in _RELEVANT if name in flags),
        devices=_gpus(),
    )


def _gpus() -> tuple[str, ...]:
    """GPUs and their driver."""
    return _of_each_gpu(lambda nvml, gpu: f"{nvml.nvmlDeviceGetName(gpu)} (driver {nvml.nvmlSystemGetDriverVersion()})")


def compute_capabilities() -> tuple[str, ...]:
    """The CUDA compute capability of each GPU, such as "89"."""
    return _of_each_gpu(lambda nvml, gpu: "".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(gpu))))


def _of_each_gpu(query: Callable[[Any, Any], str]) -> tuple[str, ...]:
    """What NVML reports for each GPU; empty where its library is not installed or finds none."""
    try:
        import pynvml  # noqa: PLC0415 - part of the extra `gpu`
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
        return tuple(
            query(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(pynvml.nvmlDeviceGetCount())
        )
    except pynvml.NVMLError:
        return ()


def tools() -> dict[str, str]:
    """Installed versions of the tools that built files and measurements depend on."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
