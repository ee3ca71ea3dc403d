"""The larger example, from sentences to answers: an encoder whose INT8 meets budgets that its FP32 does not."""

import json
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optimize.arrays import Arrays
from optimize.errors import Exit
from optimize.registry import Registry
from optimize.source import preprocess_package
from serve.client import Client
from tests.e2e.readme import blocks, clone, typed
from tests.e2e.stock import check_answers
from tests.serving import COMMAND, gone, started

SENTENCES = [
    "what a lovely day",
    "a dull and boring waste of time",
    "the worst meal of my life",
    "I adore this little place",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return clone(tmp_path / "clone")


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


def tokenized(registry: Registry, columns: Arrays) -> Arrays:
    """The model's inputs for the columns, by the code that was published with the version."""
    preprocessing = registry.load("sentiment").preprocessing
    assert preprocessing is not None
    with preprocess_package.restored(preprocessing, registry) as preprocess:
        return preprocess(columns)


@pytest.mark.slow
def test_a_quick_run_screens_both_candidates(folder: Path) -> None:
    model = exported(folder, "--quick")
    assert model["winner"] is None
    for precision in ("fp32", "int8-dynamic"):
        assert verdicts(model, f"{precision}@onnxruntime-cpu")["accuracy.max_drop"]["verdict"] != "FAIL"


@pytest.mark.slow
def test_int8_wins_and_takes_sentences(folder: Path) -> None:
    model = exported(folder)
    assert model["winner"]["candidate"] == "int8-dynamic@onnxruntime-cpu"
    kept = verdicts(model, "int8-dynamic@onnxruntime-cpu")
    assert {verdict["verdict"] for verdict in kept.values()} == {"PASS"}
    assert kept["speed.min_speedup"]["low"] >= 2.0
    assert {"throughput.qps", "throughput.p99_ms"} <= set(kept)
    lost = verdicts(model, "fp32@onnxruntime-cpu")
    assert {key for key, verdict in lost.items() if verdict["verdict"] == "FAIL"} == {"speed.min_speedup"}
    assert {"accuracy.max_drop", "latency.p99_ms", "memory.peak_mb"} <= set(lost)  # measured far enough to compare

    sentences = {"text": np.array(SENTENCES, dtype=object)}
    token_ids = tokenized(Registry(folder / "artifacts"), sentences)
    _, serve, _, predict, examples = blocks("Start")
    with started(shlex.split(serve), folder, models=1) as service:
        family = service.family()
        requests = {"sentences": sentences, "token_ids": token_ids}
        check_answers(folder / "artifacts", "sentiment", service.address, requests, folder)
        assert typed(folder, predict) == "positive: [1 0]\n"
        assert typed(folder, examples.splitlines()[1]) == (
            "positive: what a lovely day\nnegative: a dull and boring waste of time\n"
        )
        with Client(service.address) as client:
            answer = client.infer("sentiment", sentences)
        assert answer.outputs["logits"].argmax(axis=1).tolist() == [1, 0, 0, 1]
        assert service.stop(signal.SIGTERM) == 0
        assert gone(family)

    pq.write_table(pa.table({"text": SENTENCES}), folder / "in.parquet")
    scored = run(folder, "score", "sentiment", "--input", "in.parquet", "--output", "out")
    assert scored.returncode == 0, scored.stderr
    assert [np.argmax(row) for row in pq.read_table(folder / "out").column("logits").to_pylist()] == [1, 0, 0, 1]
