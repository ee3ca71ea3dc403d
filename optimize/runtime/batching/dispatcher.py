"""Give each call to an idle worker or to the queue, and each worker that has finished its next batch.

A batch is formed when a worker is free, never before, and an idle worker never waits for a fuller batch. A worker thread that ends an
execution takes the next batch itself, so that its session does not stand idle while the event loop is busy.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from optimize.manifest import Signature
from optimize.runtime.batching.calls import Answer, Call, Settled, expired, extent, late
from optimize.runtime.batching.collate import Collator, Shape
from optimize.runtime.batching.counters import Counters
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.rejections import QueueFull, Rejected, infeasible
from optimize.runtime.batching.scheduling.latency_model import LatencyModel
from optimize.runtime.batching.scheduling.queue import QueuedRequest
from optimize.runtime.batching.scheduling.retry_after import RetryAfter
from optimize.runtime.batching.scheduling.scheduler import Scheduler
from optimize.runtime.batching.worker import RunResult, Worker, lower_priority
from optimize.runtime.session import Session

# No caller is asked to retry sooner than this, however short the queue is.
MIN_RETRY_AFTER_S = 0.01
# Predictions err, and under overload the queue stands at the edge of what can be met: a request that must wait is accepted only if
# so many times the predicted time is left. Without it, a tenth of the accepted requests expires, or is answered too late.
MARGIN = 1.2

_LAST = sys.maxsize
"""The place in the order of arrival of a request that has not arrived yet."""


class Execution(NamedTuple):
    """A batch that a session is running: for how long so far, and how long the curve promised for it."""

    elapsed_s: float
    promised_s: float


class Dispatcher:
    """The queue and the workers of one model. The event loop and the worker threads share it, under one lock."""

    def __init__(
        self,
        sessions: Sequence[Session],
        signature: Signature,
        latency_model: LatencyModel,
        collator: Collator,
        options: BatcherOptions,
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self.running = 0
        """Executions under way, at most one per worker."""
        self._options = options
        self._counters = counters
        self._clock = clock
        self._latency_model = latency_model
        self._scheduler: Scheduler[Call] = Scheduler(
            latency_model, batchable=signature.batchable, workers=len(sessions), ageing_s=options.ageing_s
        )
        self._retry_after = RetryAfter(options.default_timeout_s)
        self._workers: list[Worker[Call]] = [Worker(session, collator, clock) for session in sessions]
        self._idle: list[Worker[Call]] = []
        self._threads: list[threading.Thread] = []
        # Of the calls that came since a batch was last taken, the one that takes least time.
        self._smallest: Call | None = None
        # Reentrant: the error for a full queue is made with the lock held, or later without.
        self._lock = threading.RLock()

    def start(self, deliver: Callable[[list[Settled]], object]) -> None:
        """Start the worker threads, which pass the calls that they settle to `deliver`.

        It is called once per execution, and raises RuntimeError when its event loop is closed.
        """
        self._idle = list(self._workers)
        self._threads = [
            threading.Thread(target=self._work, args=(worker, deliver), name=f"batcher-{number}", daemon=True)
            for number, worker in enumerate(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every worker end after its execution."""
        for worker in self._workers:
            worker.inbox.put(None)

    def join(self) -> None:
        """Wait until the worker threads have ended."""
        for thread in self._threads:
            thread.join()
        self._threads = []

    @property
    def workers(self) -> int:
        """Executions that can be under way at once."""
        return len(self._workers)

    @property
    def queued_rows(self) -> int:
        """Rows in the queue."""
        return self._scheduler.rows

    @property
    def drain_s(self) -> float:
        """Predicted seconds until everything that is running or queued is done."""
        with self._lock:
            return self._scheduler.drain_s(self._remaining_s(self._clock()))

    def executing(self) -> list[Execution]:
        """The executions under way."""
        with self._lock:
            now = self._clock()
            busy = [worker for worker in self._workers if worker not in self._idle]
            return [Execution(now - worker.began, worker.promised_s) for worker in busy]

    # On the event loop.

    def accept(self, call: Call, now: float) -> None:
        """Start a call at once or queue it.

        Raises:
            QueueFull, DeadlineExceeded: Neither is possible.
        """
        if call.is_too_late(now):
            raise infeasible(call.deadline - now, call.alone_s)
        with self._lock:
            if self._idle:
                worker = self._idle.pop()
                self.running += 1
                self._occupy(worker, [call], now)
                worker.inbox.put([call])
            else:
                self._enqueue(call, now)

    def _enqueue(self, call: Call, now: float) -> None:
        remaining_s = self._remaining_s(now)
        if self._scheduler.rows + call.rows > self._options.max_queue_rows:
            raise self._queue_full(call.rows, now, remaining_s)
        if self._smallest is None or call.alone_s < self._smallest.alone_s:
            self._smallest = call
        needed_s = MARGIN * self._scheduler.answer_s(call, remaining_s)
        if now + needed_s > call.deadline:
            raise infeasible(call.deadline - now, needed_s)
        self._scheduler.add(call)

    def refusal(self, deadline: float | None) -> Callable[[], Rejected] | None:
        """Makes the error for a request that came now with this deadline, see :meth:`Batcher.refusal`."""
        with self._lock:
            if self._idle:
                return None
            now = self._clock()
            remaining_s = self._remaining_s(now)
            if self._scheduler.rows >= self._options.max_queue_rows:
                return partial(self._queue_full, 1, now, remaining_s)
            if (like := self._smallest) is None:
                return None
            deadline = now + self._options.default_timeout_s if deadline is None else deadline
            unread = QueuedRequest((0, deadline, _LAST), now, 1, like.group, like.shape, self._latency_model)
            needed_s = MARGIN * self._scheduler.answer_s(unread, remaining_s)
        return None if now + needed_s <= deadline else partial(infeasible, deadline - now, needed_s)

    def discard(self, call: Call) -> bool:
        """Take a call out of the queue; whether it was there."""
        with self._lock:
            return self._scheduler.discard(call)

    def clear(self) -> list[Call]:
        """Empty the queue, and return the calls that were in it."""
        with self._lock:
            queued = list(self._scheduler)
            for call in queued:
                self._scheduler.discard(call)
        return queued

    def _remaining_s(self, now: float) -> list[float]:
        return [max(0.0, worker.busy_until - now) for worker in self._workers]

    def _queue_full(self, rows: int, now: float, remaining_s: Sequence[float]) -> QueueFull:
        with self._lock:
            queued, row_s = self._scheduler.rows, self._scheduler.row_s
            drained_s = max(self._scheduler.drain_s(remaining_s), MIN_RETRY_AFTER_S)
        # By the promise: how slow executions are during a burst says little about the time when its callers retry.
        request_s = rows * (MARGIN * row_s or drained_s)
        retry_after_s = self._retry_after.next_s(now, drained_s, request_s)
        return QueueFull(
            f"{queued} rows wait, and {rows} more would exceed {self._options.max_queue_rows};"
            f" try again in {retry_after_s:.3f} s",
            retry_after_s,
        )

    # On the worker threads.

    def _work(self, worker: Worker[Call], deliver: Callable[[list[Settled]], object]) -> None:
        """Wait for a batch, then run batches until none is left, and wait again."""
        lower_priority()
        while (batch := worker.inbox.get()) is not None:
            self._run_batches(worker, batch, deliver)
            del batch  # an idle worker keeps no caller's arrays alive

    def _run_batches(self, worker: Worker[Call], batch: list[Call], deliver: Callable[[list[Settled]], object]) -> None:
        while batch:
            settled = self._execute(worker, batch)
            batch = self._next_batch(worker, settled)
            try:
                deliver(settled)
            except RuntimeError:  # the event loop was closed before the batcher: no caller is left
                worker.inbox.put(None)
                return

    def _execute(self, worker: Worker[Call], batch: list[Call]) -> list[Settled]:
        """Run one batch, and return the calls that it settles: all of them, or none where its halves are to be run first."""
        batch = [call for call in batch if not call.future.done()]
        if not batch:
            return []
        rows, shape = extent(batch)
        run = worker.run([call.inputs for call in batch], [call.rows for call in batch], [call.shape for call in batch])
        self._count(run, rows, shape)
        if run.error is None:
            return [
                Settled(call, Answer(part, run.started - call.arrived, run.execution_s, rows), "answered")
                for call, part in zip(batch, run.parts, strict=True)
            ]
        if worker.halve(batch):
            return []
        return [Settled(call, run.error, "failed") for call in batch]

    def _count(self, run: RunResult, rows: int, shape: Shape) -> None:
        counters = self._counters
        with self._lock:
            counters.execution_s.observe(run.execution_s)
            counters.batch_rows.observe(rows)
            if run.error is None:
                counters.failures_in_a_row = 0
                self._latency_model.observe(rows, shape, run.execution_s)
            else:
                counters.failures_in_a_row += 1
                counters.failed_executions += 1

    def _next_batch(self, worker: Worker[Call], settled: list[Settled]) -> list[Call]:
        """What this worker runs next: half of a batch that failed, else what the scheduler gives; empty, and it is idle.

        Calls whose deadline cannot be met any more are added to `settled`.
        """
        with self._lock:
            now = self._clock()
            batch: list[Call] = []
            while not batch and (half := worker.next_half()):
                for call in half:
                    if call.is_too_late(now):
                        settled.append(late(call))
                    else:
                        batch.append(call)
            if not batch:
                self._smallest = None
                batch, dropped = self._scheduler.next_batch(now)
                settled.extend(map(expired, dropped))
                worker.begin(len(batch))
            if batch:
                self._occupy(worker, batch, now)
            else:
                self.running -= 1
                self._idle.append(worker)
            return batch

    def _occupy(self, worker: Worker[Call], batch: Sequence[Call], now: float) -> None:
        worker.began = now
        worker.promised_s = self._latency_model.promised_s(*extent(batch))
        worker.busy_until = now + worker.promised_s * self._latency_model.slowdown
