"""What this machine can build, run and measure, in words."""

import importlib.util
import sys

from optimize.machine import describe, tools

_NEEDED = {
    "onnxruntime": "runs ONNX artefacts; install proveserve[cpu] or proveserve[gpu]",
    "torch": "reads PyTorch sources; install proveserve[cpu]",
    "onnx": "writes candidates; install proveserve[cpu]",
    "ray": "serves and scores; install proveserve[cpu]",
    "locust": "load-tests; install proveserve[cpu]",
}


def diagnose() -> tuple[bool, list[str]]:
    """Whether the tool can do its work here, and a line for each thing that was looked at."""
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
        import onnxruntime  # noqa: PLC0415 - only where it is installed

        lines.append(f"onnxruntime providers: {', '.join(onnxruntime.get_available_providers())}")
    return not missing, lines


def _int8(sets: tuple[str, ...]) -> str:
    if {"avx512_vnni", "avx_vnni", "asimddp", "amx_int8"} & set(sets):
        return "int8: has dot-product instructions, so int8 can be faster than fp32"
    return "int8: no dot-product instructions (VNNI), so int8 is often slower than fp32 here"
