from pathlib import Path

import pytest

from optimize.budgets import LatencyBudget, ModelBudgets
from optimize.tournament.candidate import Candidate
from optimize.tournament.judging import screen
from tests.optimize.tournament.tournaments import candidate, tournament

LATENCY = ModelBudgets(source="m.onnx", latency=LatencyBudget(p99_ms=5.0))


@pytest.mark.parametrize(
    ("cores", "budgets", "tried", "counts"),
    [
        (6, LATENCY, candidate(), [1, 2, 4]),
        (6, ModelBudgets(source="m.onnx"), candidate(), [1]),
        (6, LATENCY, candidate("source"), [1]),
        (2, LATENCY, candidate(threads=4, published=True), [4]),
    ],
)
def test_threads_that_are_tried(
    tmp_path: Path, cores: int, budgets: ModelBudgets, tried: Candidate, counts: list[int]
) -> None:
    """A published version is judged with the threads that serve it, whatever machine it is on."""
    assert screen.thread_counts(tournament(tmp_path, budgets=budgets, cores=cores), tried) == counts
