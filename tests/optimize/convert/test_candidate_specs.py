import importlib.util
from typing import Any

import pytest

from optimize.budgets import ModelBudgets
from optimize.convert.candidate_specs import candidate_specs

CPU = ("CPUExecutionProvider",)
CUDA = ("CUDAExecutionProvider", *CPU)
ROWS = {"calibration": 500, "selection": 5000, "confirmation": 5000}


def reasons(providers: tuple[str, ...] = CPU, rows: dict[str, int] = ROWS, **options: Any) -> dict[str, str]:
    """Why each candidate does not apply; empty where it does."""
    specs = candidate_specs(ModelBudgets(source="m.onnx", **options), rows, providers)
    found = {spec.name: spec.reason for spec in specs}
    assert len(found) == len(specs)
    return found


def test_cpu_candidates_come_in_order_of_simplicity() -> None:
    assert reasons() == {
        "fp32@onnxruntime-cpu": "",
        "fp16@onnxruntime-cpu": "slower than fp32 on most CPUs; list it in `precisions` to try it",
        "int8-dynamic@onnxruntime-cpu": "",
        "int8-static@onnxruntime-cpu": "",
    }


def test_only_listed_precisions_are_candidates() -> None:
    assert reasons(precisions=("int8-static", "fp16")) == {
        "fp16@onnxruntime-cpu": "",
        "int8-static@onnxruntime-cpu": "",
    }


def test_a_target_listed_twice_counts_once() -> None:
    assert list(reasons(targets=("cpu", "cpu"), precisions=("fp32",))) == ["fp32@onnxruntime-cpu"]


def test_cuda_needs_its_provider() -> None:
    reason = "no GPU: this machine's onnxruntime offers no CUDAExecutionProvider"
    assert reasons(targets=("cuda",))["fp32@onnxruntime-cuda"] == reason
    assert reasons(CUDA, targets=("cuda",)) == {
        "fp32@onnxruntime-cuda": "",
        "fp16@onnxruntime-cuda": "",
        "int8-dynamic@onnxruntime-cuda": "onnxruntime has no CUDA kernels for dynamically quantised operators",
        "int8-static@onnxruntime-cuda": "",
    }


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_never_has_dynamic_int8(target: Any) -> None:
    name = f"int8-dynamic@{target}"
    assert reasons(targets=(target,))[name] == "TensorRT supports neither DynamicQuantizeLinear nor MatMulInteger"


def test_rtx_engine_needs_a_gpu_to_build_for(monkeypatch: pytest.MonkeyPatch) -> None:
    name, real = "fp32@tensorrt-rtx", importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if "tensorrt" in module else real(module))
    assert reasons(targets=("tensorrt-rtx",))[name] == "tensorrt-rtx is not installed; install proveserve[rtx]"
    assert reasons(targets=("tensorrt",))["fp32@tensorrt"].startswith("tensorrt is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert reasons(targets=("tensorrt-rtx",))[name].startswith("no GPU to build for; declare compute_capabilities")
    assert reasons(targets=("tensorrt-rtx",), compute_capabilities=("89",))[name] == ""


def test_dynamic_int8_does_not_apply_where_answers_must_not_depend_on_the_batch() -> None:
    found = reasons(batch_invariant=True)
    assert found["int8-dynamic@onnxruntime-cpu"] == (
        "its answer to a row depends on its batch, and batch_invariant = true"
    )
    assert found["int8-static@onnxruntime-cpu"] == ""


def test_static_int8_needs_calibration_samples() -> None:
    assert reasons(rows={})["int8-static@onnxruntime-cpu"] == "int8-static needs calibration samples; declare `data`"
    assert reasons(rows={})["int8-dynamic@onnxruntime-cpu"] == ""
