from pathlib import Path
from typing import Any

import pytest

from optimize.budgets import CostBudget, ModelBudgets
from optimize.manifest import SessionOptions
from optimize.tournament.judging import cost
from tests.optimize.tournament.tournaments import candidate, tournament


@pytest.mark.parametrize(("target", "held"), [("cpu", 0.04 * 4), ("cuda", 2.5)])
def test_a_million_rows_cost_the_cores_or_the_gpu_that_a_session_holds(
    tmp_path: Path, target: Any, held: float
) -> None:
    budgets = ModelBudgets(source="m.onnx", cost=CostBudget(per_hour={"cpu": 0.04, "cuda": 2.5}))
    measured = candidate(rows_per_s=(1000.0,) * 20).with_options(SessionOptions(target, threads=4))
    found = cost.judge(tournament(tmp_path, budgets=budgets), measured)
    assert found.measurements["cost.per_million"].value == pytest.approx(held / 3600 * 1000)
