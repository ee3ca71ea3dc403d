"""Rows per second of `optimize score` against bare sessions in threads of one process, on the same model and rows.

``python -m tests.benchmarks.score`` prints both as ratios, with the start of Ray and its workers counted and not: bare runs stand
before and after each scoring run, so that the ratios hold on any machine. The bare sessions read no file and write none. Two models:
one whose rows cost about what a small transformer's sentence does, and one so light that the file's own work shows.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper

from optimize.manifest import SessionOptions
from optimize.runtime.session import OnnxSession
from tests.published import publish
from tests.serve.scoring import models

BATCH = 32
INPUT = 64
ROW_GROUP = 1024


def layers(count: int, width: int) -> onnx.ModelProto:
    """x[batch, 64] -> y[batch, 64] through `count` square layers."""
    nodes = [helper.make_node("MatMul", ["x", "first"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{n}", "square"], [f"h{n + 1}"]) for n in range(count)]
    nodes += [helper.make_node("MatMul", [f"h{count}", "last"], ["y"])]
    draw = np.random.default_rng(0)
    return models.model(
        nodes,
        [("x", TensorProto.FLOAT, ["batch", INPUT])],
        [("y", TensorProto.FLOAT, ["batch", INPUT])],
        first=draw.normal(0, 0.1, (INPUT, width)).astype(np.float32),
        square=draw.normal(0, width**-0.5, (width, width)).astype(np.float32),
        last=draw.normal(0, 0.1, (width, INPUT)).astype(np.float32),
    )


def bare_rows_per_s(path: Path, x: np.ndarray, sessions: int) -> float:
    """Rows per second of so many one-thread sessions, each in a thread, over the batches of `x`."""
    opened = [OnnxSession(path, SessionOptions()) for _ in range(sessions)]

    def work(number: int) -> None:
        for start in range(number * BATCH, len(x), sessions * BATCH):
            opened[number].run({"x": x[start : start + BATCH]})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(sessions)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(x) / (time.perf_counter() - began_s)


def score_rows_per_s(folder: Path, name: str, workers: int) -> tuple[float, float]:
    """Rows per second of the whole command, and of it from the first open worker to the last part."""
    out = folder / f"{name}-out"
    command = [sys.executable, "-c", "from optimize.cli import main; main()", "score", name]
    options = ["--input", f"{name}.parquet", "--output", str(out), "--registry", "registry", "--workers", str(workers)]
    began_s = time.perf_counter()
    subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True)
    seconds = time.perf_counter() - began_s
    summary = json.loads((out / "_SUCCESS").read_text())
    return summary["rows"] / seconds, summary["rows"] / summary["scoring_s"]


def compare(folder: Path, name: str, model: onnx.ModelProto, rows: int) -> None:
    """Print one model's lines."""
    workers = len(os.sched_getaffinity(0))
    publish(folder / "registry", name, model, folder, max_batch=BATCH)
    x = np.random.default_rng(1).random((rows, INPUT), dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(x.reshape(-1), INPUT)
    pq.write_table(pa.table({"x": column}), folder / f"{name}.parquet", row_group_size=ROW_GROUP)
    path = folder / f"{name}.onnx"
    before = bare_rows_per_s(path, x, workers)
    whole, scoring = score_rows_per_s(folder, name, workers)
    after = bare_rows_per_s(path, x, workers)
    bare = statistics.mean([before, after])
    print(f"{name}: {rows:,} rows, {workers} one-thread sessions, batches of {BATCH}", flush=True)
    print(f"  bare sessions        {bare:>10,.0f} rows/s   ({before:,.0f} before, {after:,.0f} after)")
    print(f"  score                {whole:>10,.0f} rows/s   ratio {whole / bare:.2f}, start-up included")
    print(
        f"  score                {scoring:>10,.0f} rows/s   ratio {scoring / bare:.2f}, start-up excluded", flush=True
    )


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), "heavy", layers(16, 1024), 32_768)
        compare(Path(folder), "light", layers(2, 128), 200_000)


if __name__ == "__main__":
    main()
