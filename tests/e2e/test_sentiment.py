"""The larger example, from sentences to answers: an encoder whose INT8 meets budgets that its FP32 does not."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optimize.errors import Exit
from serve.client import Client
from tests.serving import COMMAND, gone, served

REPOSITORY = Path(__file__).parents[2]
SENTENCES = [
    "what a lovely day",
    "a dull and boring waste of time",
    "the worst meal of my life",
    "I adore this little place",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(REPOSITORY / "budgets.toml", tmp_path)
    shutil.copytree(
        REPOSITORY / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("weights", "__pycache__")
    )
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=1800, check=False)


def exported(folder: Path, *options: str) -> dict[str, Any]:
    ended = run(folder, "export", "--budget", "budgets.toml", "--model", "sentiment", "--json", *options)
    # A quick run judges agreement on the screen's few rows, which may leave it open.
    assert ended.returncode in ({Exit.OK, Exit.INCONCLUSIVE} if "--quick" in options else {Exit.OK}), ended.stderr
    (model,) = json.loads(ended.stdout)["models"]
    found: dict[str, Any] = model
    return found


def verdicts(model: dict[str, Any], candidate: str) -> dict[str, dict[str, Any]]:
    (found,) = [entry for entry in model["candidates"] if entry["name"] == candidate]
    return {verdict["budget"]: verdict for verdict in found["verdicts"]}


@pytest.mark.slow
def test_a_quick_run_shows_the_trade(folder: Path) -> None:
    model = exported(folder, "--quick")
    assert model["winner"] is None
    assert verdicts(model, "fp32@onnxruntime-cpu")["size.mb"]["verdict"] == "FAIL"
    assert verdicts(model, "int8-dynamic@onnxruntime-cpu")["size.mb"]["verdict"] == "PASS"


@pytest.mark.slow
def test_int8_wins_and_takes_sentences(folder: Path) -> None:
    model = exported(folder)
    assert model["winner"]["candidate"] == "int8-dynamic@onnxruntime-cpu"
    kept = verdicts(model, "int8-dynamic@onnxruntime-cpu")
    assert {verdict["verdict"] for verdict in kept.values()} == {"PASS"}
    assert kept["speed.min_speedup"]["low"] >= 2.0

    with served(folder / "artifacts", "--model", "sentiment") as service:
        family = service.family()
        with Client(service.address) as client:
            answer = client.infer("sentiment", {"text": np.array(SENTENCES, dtype=object)})
        assert answer.outputs["logits"].argmax(axis=1).tolist() == [1, 0, 0, 1]
        assert service.stop(signal.SIGTERM) == 0
        assert gone(family)

    pq.write_table(pa.table({"text": SENTENCES}), folder / "in.parquet")
    scored = run(folder, "score", "sentiment", "--input", "in.parquet", "--output", "out")
    assert scored.returncode == 0, scored.stderr
    assert [np.argmax(row) for row in pq.read_table(folder / "out").column("logits").to_pylist()] == [1, 0, 0, 1]
