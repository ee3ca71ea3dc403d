import pytest

from optimize.budgets import AccuracyBudget, LatencyBudget, ModelBudgets, ThroughputBudget
from optimize.tournament import estimate

ALWAYS = ["build and screen 3 candidates", "time each against the source, interleaved"]


@pytest.mark.parametrize(
    ("declared", "rows", "steps"),
    [
        ({}, 0, ALWAYS),
        (
            {"accuracy": AccuracyBudget(max_drop=0.1)},
            2000,
            [ALWAYS[0], "answer 2,000 samples with each of them and with the source", ALWAYS[1]],
        ),
        (
            {"latency": LatencyBudget(p99_ms=5.0)},
            0,
            [ALWAYS[0], "time 2,448 calls of each in 6 processes", ALWAYS[1]],
        ),
        (
            {"throughput": ThroughputBudget(qps=100)},
            0,
            [*ALWAYS, "offer 16,000 requests at 100/s to the best"],
        ),
    ],
)
def test_steps_are_those_that_the_budgets_ask_for(declared: dict, rows: int, steps: list[str]) -> None:
    found, seconds = estimate.steps(ModelBudgets(source="m.onnx", **declared), 3, rows, call_ms=2.0)
    assert found == steps
    assert seconds > 48


def test_load_test_takes_its_schedule() -> None:
    def seconds(**declared: ThroughputBudget) -> float:
        return estimate.steps(ModelBudgets(source="m.onnx", **declared), 1, 0, call_ms=1.0)[1]

    assert seconds(throughput=ThroughputBudget(qps=100)) - seconds() == pytest.approx(160)
