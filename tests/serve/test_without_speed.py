"""A service without the patches for speed, and one on a newer gRPC than it requires: slower, but not broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serve.client import Client
from tests.published import publish, scale
from tests.serve import log_lines
from tests.serving import COMMAND, Served, started

NEWER_GRPC = "grpcio==1.85.*"
X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    publish(root, "double", scale(2.0), tmp_path_factory.mktemp("models"))
    return root


def check_answers(service: Served) -> None:
    with Client(service.address) as client:
        for _ in range(100):
            np.testing.assert_array_equal(client.infer("double", {"x": X}).outputs["y"], 2 * X)


@pytest.mark.slow
def test_a_service_answers_without_the_patches_for_speed(registry: Path) -> None:
    with started([sys.executable, "-m", "tests.serve.unpatched_service", str(registry)], Path.cwd(), 1) as service:
        check_answers(service)
    log_lines.check(service.output)
    lines = [json.loads(line) for line in service.output if line.startswith("{")]
    skipped = [line["target"].partition(":")[2] for line in lines if line["event"] == "patch_skipped"]
    assert sorted(skipped) == ["AioServer_moved", "Node.start_log_monitor_moved", "Node.start_monitor_moved"]


@pytest.mark.slow
@pytest.mark.parametrize("route", ["native", "public"])
def test_a_service_answers_on_a_newer_grpc(
    registry: Path, newer_grpc: Path, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(newer_grpc), str(Path.cwd()))))
    printed = subprocess.run(
        [sys.executable, "-c", "import grpc; print(grpc.__version__)"], capture_output=True, text=True, check=True
    ).stdout
    assert printed.startswith("1.85.")
    command = [*COMMAND, "serve", "--registry", str(registry), "--port", "0", "--route", route]
    with started(command, registry, 1) as service:
        loaded = {Path(one.path) for process in service.family() for one in process.memory_maps()}
        assert any(path.is_relative_to(newer_grpc) for path in loaded)
        assert not any("site-packages/grpc/" in str(path) for path in loaded)
        check_answers(service)
    log_lines.check(service.output)


@pytest.fixture(scope="module")
def newer_grpc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grpc")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder), NEWER_GRPC]
    installed = subprocess.run(install, capture_output=True, text=True, timeout=300, check=False)
    if installed.returncode != 0:
        pytest.skip(f"pip cannot install {NEWER_GRPC} here: {installed.stderr.strip().splitlines()[-1]}")
    return folder
