from pathlib import Path
from typing import Any

import pytest

from optimize.budgets import CostBudget, LatencyBudget, ModelBudgets
from optimize.manifest import SessionOptions
from optimize.source.loading import Reading
from optimize.source.model_ref import Subject
from optimize.tournament import finals, trials
from optimize.tournament.trials import Entrant, Ground
from tests.optimize.execution.test_stage_runner import bench
from tests.optimize.model_refs import SIGNATURE


def ground(folder: Path, cores: int, budgets: ModelBudgets) -> Ground:
    reading = Reading("s", "d", {}, "onnxruntime-cpu", "")
    place = bench(folder, cores=cores, budgets=budgets)
    return Ground(place, reading, SIGNATURE, folder, folder / "baseline.onnx", "b")


def entrant(precision: str = "fp32", *, threads: int = 1, settled: bool = False) -> Entrant:
    subject = Subject(ModelBudgets(source="m.onnx"), Path(), SessionOptions(threads=threads))
    return Entrant(f"{precision}@onnxruntime-cpu", precision, "onnxruntime-cpu", subject, "digest", settled=settled)


@pytest.mark.parametrize(("target", "held"), [("cpu", 0.04 * 4), ("cuda", 2.5)])
def test_a_million_rows_cost_the_cores_or_the_gpu_that_a_session_holds(
    tmp_path: Path, target: Any, held: float
) -> None:
    budgets = ModelBudgets(source="m.onnx", cost=CostBudget(per_hour={"cpu": 0.04, "cuda": 2.5}))
    asked = entrant().with_options(SessionOptions(target, threads=4))
    found = finals._cost(ground(tmp_path, 4, budgets), asked, [1000.0] * 20)
    assert found.measurements["cost.per_million"].value == pytest.approx(held / 3600 * 1000)


LATENCY = ModelBudgets(source="m.onnx", latency=LatencyBudget(p99_ms=5.0))


@pytest.mark.parametrize(
    ("cores", "budgets", "asked", "counts"),
    [
        (6, LATENCY, entrant(), [1, 2, 4]),
        (6, ModelBudgets(source="m.onnx"), entrant(), [1]),
        (6, LATENCY, entrant("source"), [1]),
        (2, LATENCY, entrant(threads=4, settled=True), [4]),
    ],
)
def test_threads_that_are_tried(
    tmp_path: Path, cores: int, budgets: ModelBudgets, asked: Entrant, counts: list[int]
) -> None:
    """A published version is judged with the threads that serve it, whatever machine it is on."""
    assert trials._thread_counts(ground(tmp_path, cores, budgets), asked) == counts
