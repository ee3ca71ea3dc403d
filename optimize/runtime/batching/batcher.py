"""Answer many callers with few executions: an asyncio front, one worker thread per session, and the policy between them.

A batch is formed when a slot (a session that runs nothing) is free, never before, and an idle slot never waits for company. A worker
that ends an execution takes the next batch by itself, so that a session does not stand idle while the event loop is busy; the loop is
called once per execution, with all its answers. The model never runs on the loop.

What a caller may be told instead of an answer:

    Rejected
    ├── QueueFull          too many rows wait; try again in `retry_after_s`, when those refused before have been answered, too
    ├── DeadlineExceeded   cannot be met (never run), ended in the queue (never run), or ended while it ran
    └── Closed             draining or closed
"""

import asyncio
import contextlib
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import NamedTuple, NoReturn, Self

from optimize.arrays import Array, Arrays
from optimize.errors import ProveserveError
from optimize.manifest import Signature
from optimize.runtime.batching.collate import Joining, Shape
from optimize.runtime.batching.counters import Counters, Outcome
from optimize.runtime.batching.curve import Curve
from optimize.runtime.batching.latency_model import Forecast
from optimize.runtime.batching.queue import Waiting
from optimize.runtime.batching.retry_after import Appointments
from optimize.runtime.batching.scheduler import DEFAULT_AGEING_S, Queue
from optimize.runtime.batching.worker import Run, Slot
from optimize.runtime.session import Session

# A caller is never asked to come back sooner than this, however short the queue is.
MIN_RETRY_AFTER_S = 0.01
# Predictions err, and under overload the queue stands at the edge of what can be met: whoever must wait is taken only with so many
# times the predicted time left. Without it, a tenth of what was taken expires, or is answered too late.
MARGIN = 1.2
# Of the threads that run the model, against the process: a third of the loop's weight, where both want the same core.
WORKER_NICENESS = 5
_CLOSED = "the server is shutting down; try another one"


class Rejected(ProveserveError):  # noqa: N818 - says what happened to the request, as its kinds do
    """The request was not answered, through no fault of the model."""


class QueueFull(Rejected):
    """Too many rows wait already."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Rejected):
    """No answer can be given, or was given, by the deadline."""


class Closed(Rejected):
    """The batcher takes no requests any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's own rows of the outputs, and what they cost."""

    outputs: Arrays
    queue_s: float
    execution_s: float
    batch_rows: int


@dataclass(frozen=True)
class BatcherOptions:
    """Bounds of one model's batcher.

    `max_batch` rows share an execution at most, within what the signature allows; `max_queue_rows` rows wait at most while all
    slots are busy; a request without a deadline gets `default_timeout_s`; one that waited `ageing_s` is helped past more urgent ones.
    """

    max_batch: int
    max_queue_rows: int
    default_timeout_s: float
    ageing_s: float = DEFAULT_AGEING_S

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("max_queue_rows", 0), ("default_timeout_s", 0), ("ageing_s", 0)):
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"{name} is {value}; wanted {least} or more")


class Execution(NamedTuple):
    """A batch that a session is running: for how long so far, and how long the curve promised for it."""

    elapsed_s: float
    promised_s: float


class _Call(Waiting):
    """One request and the future of its caller."""

    __slots__ = ("future", "inputs", "timer")

    def __init__(
        self,
        order: tuple[int, float, int],
        arrived: float,
        rows: int,
        group: Hashable,
        shape: Shape,
        forecast: Forecast,
        inputs: Mapping[str, Array],
        future: asyncio.Future[Answer],
    ) -> None:
        super().__init__(order, arrived, rows, group, shape, forecast)
        self.inputs = inputs
        self.future = future
        self.timer: asyncio.TimerHandle | None = None


class _Settled(NamedTuple):
    """What one caller is to be told, and how it is counted."""

    call: _Call
    result: Answer | Exception
    outcome: Outcome


class Batcher:
    """Batches the requests of one model over its sessions. Lives on one event loop, inside `async with`."""

    def __init__(
        self,
        sessions: Sequence[Session],
        signature: Signature,
        curve: Curve,
        options: BatcherOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not sessions:
            raise ValueError("no session was given; wanted at least one to run batches on")
        self.options = options
        self.counters = Counters()
        self._clock = clock
        self._joining = Joining(signature)
        self._forecast = Forecast(curve, self._joining.dims, min(options.max_batch, signature.max_batch))
        self._queue: Queue[_Call] = Queue(
            self._forecast, joinable=signature.batchable, slots=len(sessions), ageing_s=options.ageing_s
        )
        self._appointments = Appointments(options.default_timeout_s)
        self._sequence = itertools.count()
        # Guards what the workers share with the loop: queue, slots, counts of executions. Taken twice where a full queue is told of.
        self._lock = threading.RLock()
        self._slots: list[Slot[_Call]] = [Slot(session, self._joining, clock) for session in sessions]
        self._idle: list[Slot[_Call]] = []
        self._threads: list[threading.Thread] = []
        # Of the requests that came since a batch was last taken, the one that takes least time.
        self._smallest: _Call | None = None
        self._open = False
        self._unsettled = 0
        self._running = 0
        self._quiet = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._idle = list(self._slots)
        self._threads = [
            threading.Thread(target=self._work, args=(slot,), name=f"batcher-{number}", daemon=True)
            for number, slot in enumerate(self._slots)
        ]
        for thread in self._threads:
            thread.start()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a slot."""
        return self._queue.rows

    @property
    def running(self) -> int:
        """Executions under way, one a slot at most."""
        return self._running

    @property
    def drift(self) -> float:
        """How many times the curve's p95 an execution takes lately (a running mean)."""
        return self._forecast.drift

    @property
    def slots(self) -> int:
        """Executions that can be under way at once."""
        return len(self._slots)

    @property
    def drain_s(self) -> float:
        """Predicted seconds until all that runs and waits now is done."""
        with self._lock:
            now = self._clock()
            return self._queue.drain_s(self._remaining_s(now))

    def executing(self) -> list[Execution]:
        """The executions under way."""
        with self._lock:
            now = self._clock()
            return [Execution(now - slot.began, slot.promised_s) for slot in self._slots if slot not in self._idle]

    def refusal(self, deadline: float | None) -> Callable[[], Rejected] | None:
        """What to tell a request that came now with this deadline, so that it need not be read; None where it may be taken.

        It is taken for a single row of priority 0, of the shape of the smallest that came lately. Tell it to those who are refused
        alone: each is given a time of its own to come again. Not counted among the batcher's own refusals.
        """
        with self._lock:
            if self._idle:
                return None
            now = self._clock()
            remaining_s = self._remaining_s(now)
            if self._queue.rows >= self.options.max_queue_rows:
                return partial(self._queue_full, 1, now, remaining_s)
            if (like := self._smallest) is None:
                return None
            deadline = now + self.options.default_timeout_s if deadline is None else deadline
            unread = Waiting((0, deadline, next(self._sequence)), now, 1, like.group, like.shape, self._forecast)
            needed_s = MARGIN * self._queue.answer_s(unread, remaining_s)
        return None if now + needed_s <= deadline else partial(_infeasible, deadline - now, needed_s)

    async def submit(
        self, inputs: Mapping[str, Array], rows: int, *, deadline: float | None = None, priority: int = 0
    ) -> Answer:
        """Answer one request of `rows` rows, whose inputs have passed `check_inputs`.

        `deadline` is a time of the batcher's clock; a lower `priority` is more urgent. Cancelling the caller frees its place.

        Raises:
            QueueFull, DeadlineExceeded, Closed: The request is not answered; see the module's text.
            Exception: What the session raised for this request's own rows.
        """
        call = self._admit(inputs, rows, deadline, priority)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._withdraw(call)
            raise

    async def drain(self) -> None:
        """Refuse what comes from now on, and wait until all that was accepted is answered."""
        self._open = False
        self._notice_quiet()
        await self._quiet.wait()

    async def close(self) -> None:
        """Refuse what comes or waits, let running executions end, and end the threads.

        A model that hangs makes this wait: bound it with a timeout, which leaves that thread to end with the process.
        """
        self._open = False
        with self._lock:
            waiting = list(self._queue)
            for call in waiting:
                self._queue.discard(call)
        self._deliver([_Settled(call, Closed(_CLOSED), "closed") for call in waiting])
        try:
            await self.drain()
        finally:
            for slot in self._slots:
                slot.inbox.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    # On the loop: admission, expiry, cancellation, delivery.

    def _admit(self, inputs: Mapping[str, Array], rows: int, deadline: float | None, priority: int) -> _Call:
        """Start a request at once, let it wait, or refuse it."""
        if not self._open:
            self.counters.calls["closed"] += 1
            raise Closed(_CLOSED)
        now = self._clock()
        deadline = now + self.options.default_timeout_s if deadline is None else deadline
        shape = self._joining.shape(inputs)
        group = self._joining.group(inputs, shape)
        order = (priority, deadline, next(self._sequence))
        call = _Call(order, now, rows, group, shape, self._forecast, inputs, self._loop.create_future())
        if call.lost(now):
            self._refuse_infeasible(call, now, call.alone_s)
        with self._lock:
            if self._idle:
                self._start(self._idle.pop(), call, now)
            else:
                self._enqueue(call, now)
        self._unsettled += 1
        if deadline < math.inf:
            call.timer = self._loop.call_later(deadline - now, self._expire, call)
        return call

    def _start(self, slot: Slot[_Call], call: _Call, now: float) -> None:
        self._running += 1
        self._occupy(slot, [call], now)
        slot.inbox.put([call])

    def _occupy(self, slot: Slot[_Call], batch: Sequence[_Call], now: float) -> None:
        slot.began = now
        slot.promised_s = self._forecast.promised_s(*_extent(batch))
        slot.busy_until = now + slot.promised_s * self._forecast.slowdown

    def _enqueue(self, call: _Call, now: float) -> None:
        remaining_s = self._remaining_s(now)
        if self._queue.rows + call.rows > self.options.max_queue_rows:
            self.counters.calls["queue_full"] += 1
            raise self._queue_full(call.rows, now, remaining_s)
        if self._smallest is None or call.alone_s < self._smallest.alone_s:
            self._smallest = call
        needed_s = MARGIN * self._queue.answer_s(call, remaining_s)
        if now + needed_s > call.deadline:
            self._refuse_infeasible(call, now, needed_s)
        self._queue.add(call)

    def _remaining_s(self, now: float) -> list[float]:
        return [max(0.0, slot.busy_until - now) for slot in self._slots]

    def _queue_full(self, rows: int, now: float, remaining_s: Sequence[float]) -> QueueFull:
        with self._lock:
            waiting, row_s = self._queue.rows, self._queue.row_s
            drained_s = max(self._queue.drain_s(remaining_s), MIN_RETRY_AFTER_S)
        # By the promise: how slow executions are during a burst says little of the time when those who came in it come again.
        takes_s = rows * (MARGIN * row_s or drained_s)
        retry_after_s = self._appointments.after_s(now, drained_s, takes_s)
        return QueueFull(
            f"{waiting} rows wait, and {rows} more would exceed {self.options.max_queue_rows};"
            f" try again in {retry_after_s:.3f} s",
            retry_after_s,
        )

    def _refuse_infeasible(self, call: _Call, now: float, needed_s: float) -> NoReturn:
        self.counters.calls["infeasible"] += 1
        raise _infeasible(call.deadline - now, needed_s)

    def _expire(self, call: _Call) -> None:
        """The timer of one request: refuse it if its deadline has passed on the batcher's clock."""
        now = self._clock()
        if now < call.deadline:
            call.timer = self._loop.call_later(call.deadline - now, self._expire, call)
            return
        with self._lock:
            waited = self._queue.discard(call)
        self._deliver([_expired(call) if waited else _late(call)])

    def _withdraw(self, call: _Call) -> None:
        """The caller has gone: free its place, or drop the answer if it runs already."""
        if not call.future.cancelled():
            return  # it was settled in the same moment
        with self._lock:
            self._queue.discard(call)
        self.counters.calls["cancelled"] += 1
        self._release(call)
        self._notice_quiet()

    def _deliver(self, settled: Sequence[_Settled]) -> None:
        """Hand answers and errors to their callers; who has gone or been refused meanwhile is passed over."""
        for call, result, outcome in settled:
            if call.future.done():
                continue
            self.counters.calls[outcome] += 1
            self._release(call)
            if isinstance(result, Answer):
                call.future.set_result(result)
            else:
                call.future.set_exception(result)
        self._notice_quiet()

    def _release(self, call: _Call) -> None:
        self._unsettled -= 1
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None

    def _notice_quiet(self) -> None:
        if not self._open and not self._unsettled and not self._running:
            self._quiet.set()

    # On the worker threads.

    def _work(self, slot: Slot[_Call]) -> None:
        """A worker's life: lie idle until a batch comes, then run batches until none is left."""
        _give_way()
        while (batch := slot.inbox.get()) is not None:
            self._work_off(slot, batch)
            del batch  # an idle worker holds no caller's arrays

    def _work_off(self, slot: Slot[_Call], batch: list[_Call]) -> None:
        while batch:
            settled = self._execute(slot, batch)
            batch = self._next(slot, settled)
            try:
                self._loop.call_soon_threadsafe(self._deliver, settled)
            except RuntimeError:  # the loop was closed before the batcher: nobody is left to answer
                slot.inbox.put(None)
                return

    def _next(self, slot: Slot[_Call], settled: list[_Settled]) -> list[_Call]:
        """What this slot runs next: the rest of a failed batch, else what the queue gives; with nothing it lies idle."""
        with self._lock:
            now = self._clock()
            batch: list[_Call] = []
            while not batch and (half := slot.next_half()):
                for call in half:
                    if call.lost(now):
                        settled.append(_late(call))
                    else:
                        batch.append(call)
            if not batch:
                self._smallest = None
                batch, lost = self._queue.take(now)
                settled.extend(map(_expired, lost))
                slot.begin(len(batch))
            if batch:
                self._occupy(slot, batch, now)
            else:
                self._running -= 1
                self._idle.append(slot)
            return batch

    def _execute(self, slot: Slot[_Call], batch: list[_Call]) -> list[_Settled]:
        """Run one batch: its answers, or whom its failure is put down to, if that is known already."""
        batch = [call for call in batch if not call.future.done()]
        if not batch:
            return []
        rows, shape = _extent(batch)
        run = slot.run([call.inputs for call in batch], [call.rows for call in batch], [call.shape for call in batch])
        self._count(run, rows, shape)
        if run.error is None:
            return [
                _Settled(call, Answer(part, run.started - call.arrived, run.execution_s, rows), "answered")
                for call, part in zip(batch, run.parts, strict=True)
            ]
        if slot.halve(batch):
            return []
        return [_Settled(call, run.error, "failed") for call in batch]

    def _count(self, run: Run, rows: int, shape: Shape) -> None:
        counters = self.counters
        with self._lock:
            counters.execution_s.observe(run.execution_s)
            counters.batch_rows.observe(rows)
            if run.error is None:
                counters.failures_in_a_row = 0
                self._forecast.observe(rows, shape, run.execution_s)
            else:
                counters.failures_in_a_row += 1
                counters.failed_executions += 1


def _give_way() -> None:
    """Let the event loop, which feeds all sessions and refuses what is too much, have a core before the model has it."""
    if sys.platform == "linux":  # where a thread has a niceness of its own
        thread = threading.get_native_id()
        niceness = min(os.getpriority(os.PRIO_PROCESS, thread) + WORKER_NICENESS, 19)
        with contextlib.suppress(PermissionError):  # some containers allow no such call
            os.setpriority(os.PRIO_PROCESS, thread, niceness)


def _infeasible(left_s: float, needed_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{max(left_s, 0.0):.3f} s are left, but an answer may take {needed_s:.3f} s; allow more time"
    )


def _expired(call: _Call) -> _Settled:
    allowed_s = call.deadline - call.arrived
    return _Settled(call, DeadlineExceeded(f"not run within the {allowed_s:.3f} s it had; allow more time"), "expired")


def _late(call: _Call) -> _Settled:
    allowed_s = call.deadline - call.arrived
    return _Settled(
        call, DeadlineExceeded(f"still running after the {allowed_s:.3f} s it had; allow more time"), "late"
    )


def _extent(batch: Sequence[_Call]) -> tuple[int, Shape]:
    """Rows and joint shape of a batch."""
    if len(batch) == 1:
        return batch[0].rows, batch[0].shape
    return sum(call.rows for call in batch), tuple(map(max, *(call.shape for call in batch)))
