import pytest

from optimize.errors import ProveserveError
from serve.scoring.partition import Task
from serve.scoring.pool import MAX_ATTEMPTS, Losses

TASK = Task(4, 2, 100, 2100, 50)


def test_a_task_may_cost_a_few_workers_and_then_ends_the_job() -> None:
    losses = Losses()
    for other in range(10, 20):
        losses.add(Task(other, 0, 0, 0, 1))
    for _ in range(MAX_ATTEMPTS - 1):
        losses.add(TASK)
    with pytest.raises(
        ProveserveError, match=r"rows 2100 to 2149 \(row group 2\): 3 workers died; finished parts are kept"
    ):
        losses.add(TASK)


def test_workers_that_die_as_they_open_the_model_end_the_job() -> None:
    losses = Losses()
    for _ in range(MAX_ATTEMPTS - 1):
        losses.add(None)
    with pytest.raises(ProveserveError, match=r"opening the model: 3 workers died"):
        losses.add(None)
