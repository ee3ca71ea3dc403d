"""Run tasks on Ray actors, and a task again on another one where its actor died."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from optimize.errors import ProveserveError, first_line
from serve.scoring.partition import Task
from serve.scoring.worker import Scorer, Work

MAX_ATTEMPTS = 3
"""Workers that may die during one task, or while they start, before the job fails."""

_WAIT_S = 0.2
_DEATHS = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)


class Losses:
    """Counts the workers that died, by what they were doing."""

    def __init__(self) -> None:
        self._count: Counter[int | None] = Counter()

    def add(self, task: Task | None) -> None:
        """Count a worker that died during `task`, or while it started (None).

        Raises:
            ProveserveError: Too many have died.
        """
        key = None if task is None else task.index
        self._count[key] += 1
        if self._count[key] < MAX_ATTEMPTS:
            return
        raise ProveserveError(
            f"{_place(task)}: {MAX_ATTEMPTS} workers died; finished parts are kept: if memory was short, continue with --resume"
            " and fewer --workers"
        )


def _place(task: Task | None) -> str:
    if task is None:
        return "opening the model"
    return f"rows {task.first_row} to {task.first_row + task.rows - 1} (row group {task.row_group})"


class _Actor:
    """A worker process. Opening the model is a call of its own, since Ray would hide an error of the constructor."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def open(self) -> None:
        """Open the model."""
        self._scorer = Scorer(self._work)

    def score(self, task: Task) -> None:
        """Score one task."""
        self._scorer.score(task)


class Pool:
    """Workers of a running Ray, which score tasks in order, each as soon as it is free.

    `interrupted` is called while the pool waits, and ends the job by raising.
    """

    def __init__(self, work: Work, workers: int, interrupted: Callable[[], None]) -> None:
        self._actor = ray.remote(num_cpus=work.options.threads, max_restarts=0)(_Actor)
        self._work = work
        self._interrupted = interrupted
        self._running: dict[Any, tuple[Any, Task | None]] = {}
        self._idle: deque[Any] = deque()
        self._waiting: deque[Task] = deque()
        self._losses = Losses()
        for _ in range(workers):
            self._start_worker()

    def open(self) -> None:
        """Return when the first worker has opened its model and replayed the golden inputs.

        Raises:
            ProveserveError: The model does not open, does not answer as it did, or the workers die.
        """
        while not self._idle:
            self._step()

    def run(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """Score all tasks, and yield each one when its part is written.

        Raises:
            ProveserveError: A task failed, or too many workers died during it.
        """
        self._waiting.extend(tasks)
        left = len(tasks)
        while left:
            while self._waiting and self._idle:
                actor = self._idle.popleft()
                task = self._waiting.popleft()
                self._running[actor.score.remote(task)] = (actor, task)
            done = self._step()
            if done is not None:
                left -= 1
                yield done

    def _start_worker(self) -> None:
        actor = self._actor.remote(self._work)
        self._running[actor.open.remote()] = (actor, None)

    def _step(self) -> Task | None:
        """Wait for the next call to end, and return the task that it completed, if any."""
        ready: list[Any] = []
        while not ready:
            self._interrupted()
            ready, _ = ray.wait(list(self._running), timeout=_WAIT_S)
        actor, task = self._running.pop(ready[0])
        try:
            ray.get(ready[0])
        except _DEATHS:
            self._losses.add(task)
            if task is not None:
                self._waiting.appendleft(task)
            self._start_worker()
            return None
        except ray.exceptions.RayError as error:
            raise _cause(error, task) from None
        self._idle.append(actor)
        return task


def _cause(error: Any, task: Task | None) -> ProveserveError:
    """The error that a worker raised, if it is one of ours; any other in one sentence."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ProveserveError):
        return cause
    return ProveserveError(
        f"{_place(task)}: {type(cause).__name__}: {first_line(cause)}; finished parts are kept: fix that, and continue with --resume"
    )
