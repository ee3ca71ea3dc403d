from pathlib import Path
from typing import Any

import pytest

from optimize.budgets import CostBudget, LatencyBudget, ModelBudgets
from optimize.manifest import SessionOptions
from optimize.source.loading import Source
from optimize.source.model_ref import ModelRef
from optimize.tournament import finals, trials
from optimize.tournament.trials import Candidate, Tournament
from tests.optimize.execution.test_stage_runner import runner
from tests.optimize.model_refs import SIGNATURE


def tournament(folder: Path, cores: int, budgets: ModelBudgets) -> Tournament:
    source = Source("s", "d", {}, "onnxruntime-cpu", "")
    place = runner(folder, cores=cores, budgets=budgets)
    return Tournament(place, source, SIGNATURE, folder, folder / "baseline.onnx", "b")


def candidate(precision: str = "fp32", *, threads: int = 1, settled: bool = False) -> Candidate:
    model_ref = ModelRef(ModelBudgets(source="m.onnx"), Path(), SessionOptions(threads=threads))
    return Candidate(f"{precision}@onnxruntime-cpu", precision, "onnxruntime-cpu", model_ref, "digest", settled=settled)


@pytest.mark.parametrize(("target", "held"), [("cpu", 0.04 * 4), ("cuda", 2.5)])
def test_a_million_rows_cost_the_cores_or_the_gpu_that_a_session_holds(
    tmp_path: Path, target: Any, held: float
) -> None:
    budgets = ModelBudgets(source="m.onnx", cost=CostBudget(per_hour={"cpu": 0.04, "cuda": 2.5}))
    asked = candidate().with_options(SessionOptions(target, threads=4))
    found = finals._cost(tournament(tmp_path, 4, budgets), asked, [1000.0] * 20)
    assert found.measurements["cost.per_million"].value == pytest.approx(held / 3600 * 1000)


LATENCY = ModelBudgets(source="m.onnx", latency=LatencyBudget(p99_ms=5.0))


@pytest.mark.parametrize(
    ("cores", "budgets", "asked", "counts"),
    [
        (6, LATENCY, candidate(), [1, 2, 4]),
        (6, ModelBudgets(source="m.onnx"), candidate(), [1]),
        (6, LATENCY, candidate("source"), [1]),
        (2, LATENCY, candidate(threads=4, settled=True), [4]),
    ],
)
def test_threads_that_are_tried(
    tmp_path: Path, cores: int, budgets: ModelBudgets, asked: Candidate, counts: list[int]
) -> None:
    """A published version is judged with the threads that serve it, whatever machine it is on."""
    assert trials._thread_counts(tournament(tmp_path, cores, budgets), asked) == counts
