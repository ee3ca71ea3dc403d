"""One session that runs one batch at a time; it finds the failing requests of a batch by running its halves.

Halves run in the order in which they were cut, level by level, so that the other requests of the batch are answered early. The cost
of a failure is bounded: a session that always fails must not be called twice for each request.
"""

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from optimize.arrays import Array, Arrays
from optimize.errors import ExecutionError, ProveserveError
from optimize.runtime.batching.collate import Collator, Shape
from optimize.runtime.session import Session

# Executions that a failed batch of n requests may cost on top, for each time that it can be halved (log2 n, rounded up). They
# isolate any failures among 16 requests, and up to four among any number.
RUNS_PER_HALVING = 8
# Of the threads that run the model, relative to the process: a third of the event loop's weight where both want the same core.
WORKER_NICENESS = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunResult:
    """One execution: each request's part of the outputs, or the error; `execution_s` includes collating the inputs."""

    started: float
    execution_s: float
    parts: list[Arrays]
    error: ProveserveError | None = None


class Worker(Generic[T]):
    """A session, the inbox of its thread, and the halves that are left of a failed batch of requests T."""

    def __init__(self, session: Session, collator: Collator, clock: Callable[[], float]) -> None:
        self.inbox: SimpleQueue[list[T] | None] = SimpleQueue()
        self.began = 0.0
        self.promised_s = 0.0
        self.busy_until = 0.0
        self._session = session
        self._collator = collator
        self._clock = clock
        self._halves: deque[list[T]] = deque()
        self._runs_left = 0

    def run(self, requests: Sequence[Mapping[str, Array]], rows: Sequence[int], shapes: Sequence[Shape]) -> RunResult:
        """Answer requests that may share an execution, given the rows and the shape of each. Never raises."""
        started = self._clock()
        try:
            outputs = self._session.run(self._collator.collate(requests))
            execution_s = self._clock() - started
            return RunResult(started, execution_s, self._collator.split(outputs, rows, shapes))
        except ProveserveError as error:
            return RunResult(started, self._clock() - started, [], error)
        except BaseException as error:  # noqa: BLE001 - without its thread, all later callers would wait forever
            problem = ExecutionError(f"the model raised {type(error).__name__}: {error}")
            return RunResult(started, self._clock() - started, [], problem)

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


def lower_priority() -> None:
    """Give the event loop, which feeds all sessions and refuses the excess, a core before the thread that calls this."""
    if sys.platform == "linux":  # where a thread has a niceness of its own
        thread = threading.get_native_id()
        niceness = min(os.getpriority(os.PRIO_PROCESS, thread) + WORKER_NICENESS, 19)
        with contextlib.suppress(PermissionError):  # some containers forbid it
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
