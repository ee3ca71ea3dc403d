import importlib.util
import sys
from types import ModuleType
from typing import Any

import msgspec
import pytest

from optimize import doctor
from optimize.budgets import Budgets, ModelBudgets
from optimize.doctor import Hardware
from optimize.execution import machine
from optimize.manifest import Machine


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    healthy, lines = doctor.diagnose()
    assert not healthy
    assert "\n".join(lines).startswith("platform: darwin. Linux only: ")
    assert doctor.target_requirements(Budgets(1, {"net": model()})) == []


def test_missing_library_is_named_with_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without_ray(name: str, *args: Any) -> Any:
        return None if name == "ray" else real(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without_ray)
    healthy, lines = doctor.diagnose()
    assert not healthy
    assert "ray: missing; it serves and scores; install proveserve[cpu]" in lines


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("avx2", "avx512_vnni"), "int8: has dot-product instructions"),
        (("avx2",), "int8: no dot-product instructions (VNNI)"),
    ],
)
def test_int8_support_is_read_off_the_instruction_sets(
    monkeypatch: pytest.MonkeyPatch, sets: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(doctor, "describe", lambda: Machine("a processor", 4, 8000, sets))
    _, lines = doctor.diagnose()
    assert any(line.startswith(message) for line in lines)
    assert "processor: a processor, 4 cores, 8,000 MB of memory" in lines


def model(**keys: Any) -> ModelBudgets:
    return msgspec.convert({"source": "net.py:model", "size": {"mb": 1.0}, **keys}, ModelBudgets)


NOTHING = Hardware((), (), ("CPUExecutionProvider",), frozenset())
ADA = Hardware(
    ("avx2", "avx512_vnni", "amx_int8"),
    ("89",),
    ("CUDAExecutionProvider", "CPUExecutionProvider"),
    frozenset({"tensorrt", "tensorrt_rtx"}),
)


DOTS = "int8 gains from 8-bit dot products (VNNI, AMX or ARM's own); this machine has"
GPU_BUILD = "needs a CUDA GPU and onnxruntime's GPU build"
NO_TENSORRT = msgspec.structs.replace(ADA, installed=frozenset())
UNNAMED = 'needs the compute capabilities of its GPUs; add compute_capabilities, such as ["89"]'


@pytest.mark.parametrize(
    ("keys", "here", "message"),
    [
        ({}, ADA, f"cpu: {DOTS} avx512_vnni, amx_int8"),
        ({"precisions": ["int8-static"]}, NOTHING, f"cpu: {DOTS} none"),
        ({"precisions": ["fp32"]}, NOTHING, "cpu: any processor will do"),
        ({"targets": ["cuda"]}, ADA, f"cuda: {GPU_BUILD}; this machine has both"),
        ({"targets": ["cuda"]}, NOTHING, f"cuda: {GPU_BUILD}; this machine has neither"),
        (
            {"targets": ["tensorrt"]},
            NO_TENSORRT,
            "tensorrt: needs a CUDA GPU and NVIDIA's tensorrt; this machine lacks NVIDIA's tensorrt",
        ),
        ({"targets": ["tensorrt-rtx"]}, ADA, f"tensorrt-rtx: {UNNAMED}"),
    ],
)
def test_each_target_names_what_it_needs(keys: dict[str, Any], here: Hardware, message: str) -> None:
    assert doctor.model_requirements("net", model(**keys), here) == [f"net, {message}"]


def test_each_gpu_of_a_target_is_named() -> None:
    declared = model(targets=["cpu", "tensorrt-rtx"], precisions=["fp32"], compute_capabilities=["89", "120", "8.9"])
    cpu, ada, blackwell, unknown = doctor.model_requirements("net", declared, ADA)
    assert cpu == "net, cpu: any processor will do"
    prefix = "net, tensorrt-rtx: needs compute capability"
    assert (
        ada == f"{prefix} 89 (Ada Lovelace, such as L4, L40S or GeForce RTX 40), which is here; engines are built here"
    )
    assert blackwell.startswith(f"{prefix} 120 (Blackwell, such as RTX PRO 6000 or GeForce RTX 50), which is not here;")
    assert unknown == ("net, tensorrt-rtx: no GPU has compute capability '8.9'; wanted one of 75, 80, 86, 89, 120, 121")
    bare = msgspec.structs.replace(ADA, installed=frozenset(), capabilities=())
    first = doctor.model_requirements("net", declared, bare)[1]
    assert first.endswith("which is not here; install proveserve[rtx] to build engines")


def test_every_gpu_that_tensorrt_rtx_builds_for_has_a_name() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="the extra `rtx` is not installed", exc_type=ImportError)
    for member in trt.ComputeCapability.__members__:
        if member.startswith("SM"):
            keys = {"targets": ["tensorrt-rtx"], "compute_capabilities": [member.removeprefix("SM")]}
            (line,) = doctor.model_requirements("net", model(**keys), ADA)
            assert "such as" in line


def nvml(*gpus: tuple[str, tuple[int, int]]) -> ModuleType:
    """NVML as its library shows it, on a machine with these GPUs; without any it fails, as it does without a driver."""
    module: Any = ModuleType("pynvml")
    module.NVMLError = type("NVMLError", (Exception,), {})

    def start() -> None:
        if not gpus:
            raise module.NVMLError

    module.nvmlInit = start
    module.nvmlDeviceGetCount = lambda: len(gpus)
    module.nvmlDeviceGetHandleByIndex = lambda index: gpus[index]
    module.nvmlDeviceGetName = lambda gpu: gpu[0]
    module.nvmlSystemGetDriverVersion = lambda: "570.1"
    module.nvmlDeviceGetCudaComputeCapability = lambda gpu: gpu[1]
    found: ModuleType = module
    return found


def test_gpus_of_this_machine_are_read_from_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(("NVIDIA L4", (8, 9)), ("NVIDIA RTX PRO 6000", (12, 0))))
    assert machine.describe().devices == ("NVIDIA L4 (driver 570.1)", "NVIDIA RTX PRO 6000 (driver 570.1)")
    assert machine.compute_capabilities() == ("89", "120")
    declared = model(targets=["tensorrt-rtx"], compute_capabilities=["89", "86"])
    ours, other = doctor.target_requirements(Budgets(schema=1, models={"net": declared}))
    assert "89 (Ada Lovelace, such as L4, L40S or GeForce RTX 40), which is here" in ours
    assert "86 (Ampere, such as A10, A40 or GeForce RTX 30), which is not here" in other
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert machine.compute_capabilities() == ()
