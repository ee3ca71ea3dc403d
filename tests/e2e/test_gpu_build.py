"""With onnxruntime's GPU build on a machine without a GPU, a session falls back to the CPU without a word."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import environments, exporting

pytestmark = pytest.mark.slow  # onnxruntime-gpu is a download of some 300 MB


def test_a_silent_fall_back_to_the_cpu_costs_the_candidate_its_place_and_nobody_else(tmp_path: Path) -> None:
    requirements = ("onnxruntime-gpu>=1.25,<2", "onnx>=1.18,<2", "scipy>=1.13,<2")
    python = environments.fresh(tmp_path, *requirements, patience_s=550)
    providers = environments.call(
        str(python), "-c", "import onnxruntime; print(*onnxruntime.get_available_providers())"
    ).split()
    assert "CUDAExecutionProvider" in providers, "wanted the GPU build"
    budget = exporting.project(
        tmp_path / "project", targets=["cpu", "cuda"], precisions=["fp32", "int8-dynamic", "int8-static"]
    )

    optimize = str(python.with_name("optimize"))
    done = subprocess.run(
        [optimize, "export", "--budget", str(budget), "--json"],
        capture_output=True, text=True, check=False, timeout=exporting.PATIENCE_S, cwd="/",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    found = {candidate["name"]: candidate for candidate in model["candidates"]}
    for name in ("fp32@onnxruntime-cuda", "int8-static@onnxruntime-cuda"):
        assert found[name]["status"] == "failed"
        assert (
            "wanted provider CUDAExecutionProvider, but onnxruntime fell back to CPUExecutionProvider"
            in (found[name]["reason"])
        )
    assert found["int8-dynamic@onnxruntime-cuda"]["status"] == "n/a"
    assert model["winner"]["runtime"] == "onnxruntime-cpu"
    assert {found[f"{precision}@onnxruntime-cpu"]["status"] for precision in ("fp32", "int8-dynamic", "int8-static")} <= {
        "winner", "qualified"
    }  # fmt: skip
