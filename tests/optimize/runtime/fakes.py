"""Fakes at the border of the batcher: a clock, and sessions of known cost that tell what they ran."""

import threading
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.budgets import Dim
from optimize.errors import ExecutionError
from optimize.manifest import CurvePoint, Signature, TensorSpec
from optimize.runtime.batching.scheduling.curve import Curve

PATIENCE_S = 20.0


class FakeClock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rows_signature(max_batch: int) -> Signature:
    """x[batch, 1] int64 -> y[batch, 1]."""
    return Signature(
        (TensorSpec("x", "int64", ("batch", 1)),),
        (TensorSpec("y", "int64", ("batch", 1)),),
        {"batch": Dim(1, 1, max_batch)},
    )


def linear_curve(fixed_s: float, row_s: float, max_batch: int) -> Curve:
    """An execution of n rows takes fixed_s + n * row_s."""
    return Curve([CurvePoint({}, rows, 0.0, 1e3 * (fixed_s + rows * row_s), 100) for rows in range(1, max_batch + 1)])


def request(row: int, rows: int = 1) -> dict[str, Array]:
    """An input whose rows are told from all others: row * 1000, row * 1000 + 1 ..."""
    return {"x": np.arange(rows, dtype=np.int64).reshape(rows, 1) + row * 1000}


def answer(row: int, rows: int = 1) -> Array:
    """What the sessions here answer to it."""
    return request(row, rows)["x"] * 3 + 1


class PoisonError(ExecutionError):
    """What a session raises when a batch holds a row that it cannot bear."""


class FakeSession:
    """Answers y = 3 x + 1 and keeps the first row's number of every request it ran; raises if any of `poison` is among them."""

    def __init__(self, poison: Collection[int] = ()) -> None:
        self.poison = set(poison)
        self.ran: list[list[int]] = []
        self.succeeded: list[list[int]] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        rows = [int(row) // 1000 for row in inputs["x"][:, 0]]
        self.ran.append(rows)
        self.enter(rows)
        bad = self.poison.intersection(rows)
        if bad:
            raise PoisonError(f"cannot bear {sorted(bad)}")
        self.succeeded.append(rows)
        answered = {"y": inputs["x"] * 3 + 1}
        return answered if outputs is None else {name: answered[name] for name in outputs}

    def enter(self, rows: list[int]) -> None:
        """Called with the rows of each execution before it answers."""


class GatedSession(FakeSession):
    """Each execution waits inside `run` until :meth:`release` lets one through; then `cost_s` of its rows pass on the clock."""

    def __init__(self, clock: FakeClock, fixed_s: float, row_s: float, poison: Collection[int] = ()) -> None:
        super().__init__(poison)
        self.clock = clock
        self.fixed_s = fixed_s
        self.row_s = row_s
        self.inside = 0
        self.left = 0
        self.started_at: list[float] = []
        self._gate = threading.Semaphore(0)

    def enter(self, rows: list[int]) -> None:
        self.started_at.append(self.clock.now)
        self.inside += 1
        if not self._gate.acquire(timeout=PATIENCE_S):
            raise TimeoutError("nobody let this execution through")
        self.clock.now += self.fixed_s + len(rows) * self.row_s
        self.inside -= 1
        self.left += 1

    def release(self, executions: int = 1) -> None:
        """Let so many executions through, now or when they come."""
        self._gate.release(executions)
