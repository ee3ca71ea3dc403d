"""The load test against the project's own servicer, codec and batcher, with real models behind them."""

import numpy as np
import pytest

from loadtest import run
from optimize.budgets import Dim, LatencyBudget, ModelBudgets, ThroughputBudget
from optimize.errors import UserError
from optimize.registry import Registry
from serve.client.connection import Connection
from serve.models.hosting import Models
from tests import published
from tests.serving import bare

RATE = 100.0
CALLS = 400


@pytest.fixture
def service(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    registry = Registry(tmp_path / "registry")
    for factor in (2.0, 3.0):
        published.publish(registry.place, "scaled", published.scale(factor), folder)

    async def fill(models: Models) -> None:
        for name in registry.models():
            await models.load(registry, registry.load(name))

    with bare(registry.models(), fill) as server:
        yield server


def settings(service, folder, rows=4, **others):
    budgets = ModelBudgets(
        source="scaled.onnx",
        latency=LatencyBudget(batch=rows),
        dims={"batch": Dim(1, 1, published.MAX_BATCH)},
        throughput=ThroughputBudget(qps=RATE, p99_ms=2_000.0),
    )
    return run.Settings(
        connection=Connection(service.address),
        model="scaled",
        budgets=budgets,
        rate_qps=RATE,
        calls=CALLS,
        report_dir=folder / "report",
        lead_in_s=0.5,
        min_block_calls=CALLS // 8,
        **others,
    )


def test_made_up_inputs_fit_a_real_model_and_answers_name_the_current_version(service, tmp_path):
    found = run.run(settings(service, tmp_path))
    assert found.verdict == "PASS", found
    assert found.codes == {"OK": CALLS}
    assert found.versions == {"2": CALLS}
    assert found.load.rows_per_call == 4


def test_rows_of_a_file_fit_a_real_model(service, tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    assert run.run(settings(service, tmp_path, input_path=tmp_path / "rows.npz")).codes == {"OK": CALLS}


def test_more_rows_than_the_model_takes_are_the_users_error(service, tmp_path):
    with pytest.raises(UserError, match=r"refused the first request, made from the service's own metadata: .*9"):
        run.run(settings(service, tmp_path, rows=9))
