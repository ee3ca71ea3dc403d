"""One session, running one batch at a time; of a batch that failed, it finds the failing requests by running halves.

Halves run in the order in which they were cut, level by level, so that the mates of a failing request are answered early. What a
failure may cost is bounded: a session that fails whatever it is given must not be called twice for each request.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from optimize.arrays import Array, Arrays
from optimize.runtime.batching.collate import Joining, Shape
from optimize.runtime.session import Session

# Executions that a failed batch of n requests may cost on top, for each time that it can be halved (log2 n, rounded up). They
# isolate any failures among 16 requests, and up to four among any number.
RUNS_PER_HALVING = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """One execution: each request's part of the outputs, or the error; `execution_s` includes joining the inputs."""

    started: float
    execution_s: float
    parts: list[Arrays]
    error: Exception | None = None


class Slot(Generic[T]):
    """A session with the inbox of its worker, and with the halves that are left of a batch that failed (of requests T)."""

    def __init__(self, session: Session, joining: Joining, clock: Callable[[], float]) -> None:
        self.inbox: SimpleQueue[list[T] | None] = SimpleQueue()
        self.began = 0.0
        self.promised_s = 0.0
        self.busy_until = 0.0
        self._session = session
        self._joining = joining
        self._clock = clock
        self._halves: deque[list[T]] = deque()
        self._runs_left = 0

    def run(self, requests: Sequence[Mapping[str, Array]], rows: Sequence[int], shapes: Sequence[Shape]) -> Run:
        """Answer requests that may share an execution, given the rows and the shape of each. Never raises."""
        started = self._clock()
        try:
            outputs = self._session.run(self._joining.join(requests))
            execution_s = self._clock() - started
            return Run(started, execution_s, self._joining.split(outputs, rows, shapes))
        except BaseException as error:  # noqa: BLE001 - whatever a model raises is its callers' to know; the worker lives on
            return Run(started, self._clock() - started, [], _presentable(error))

    def begin(self, requests: int) -> None:
        """Note that a new batch of so many requests is about to run, which renews what its failure may cost."""
        self._runs_left = RUNS_PER_HALVING * max(requests - 1, 0).bit_length()

    def halve(self, failed: list[T]) -> bool:
        """Put the halves of a failed batch aside to be run, if there are two and the failure may cost that much more."""
        if len(failed) < 2 or self._runs_left < 2:
            return False
        self._runs_left -= 2
        middle = len(failed) // 2
        self._halves.extend((failed[:middle], failed[middle:]))
        return True

    def next_half(self) -> list[T]:
        """The half to run next; empty where none is left."""
        return self._halves.popleft() if self._halves else []


def _presentable(error: BaseException) -> Exception:
    """The model's error as one that a future can carry and that ends nothing but its own request."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"the model raised {type(error).__name__}: {error}")
