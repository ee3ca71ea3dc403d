"""Answer many callers with few executions: the asyncio front, with admission, deadlines and cancellation.

The model never runs on the event loop: see :mod:`optimize.runtime.batching.dispatcher`, whose worker threads call back once per
execution, with all its answers.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from optimize.arrays import Array
from optimize.manifest import Signature
from optimize.runtime.batching.calls import Answer, Call, Settled, expired, late
from optimize.runtime.batching.collate import Collator
from optimize.runtime.batching.counters import Counters
from optimize.runtime.batching.dispatcher import Dispatcher, Execution
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.rejections import Closed, DeadlineExceeded, QueueFull, Rejected
from optimize.runtime.batching.scheduling.curve import Curve
from optimize.runtime.batching.scheduling.latency_model import LatencyModel
from optimize.runtime.session import Session


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
        self._collator = Collator(signature)
        self._latency_model = LatencyModel(curve, self._collator.dims, min(options.max_batch, signature.max_batch))
        self._dispatcher = Dispatcher(
            sessions, signature, self._latency_model, self._collator, options, self.counters, clock
        )
        self._sequence = itertools.count()
        self._open = False
        self._pending = 0
        self._drained = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._dispatcher.start(lambda settled: self._loop.call_soon_threadsafe(self._deliver, settled))
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def queued_rows(self) -> int:
        """Rows in the queue."""
        return self._dispatcher.queued_rows

    @property
    def running(self) -> int:
        """Executions under way, at most one per worker."""
        return self._dispatcher.running

    @property
    def workers(self) -> int:
        """Executions that can be under way at once."""
        return self._dispatcher.workers

    @property
    def drift(self) -> float:
        """How many times the curve's p95 an execution has taken lately (a running mean)."""
        return self._latency_model.drift

    @property
    def drain_s(self) -> float:
        """Predicted seconds until everything that is running or queued is done."""
        return self._dispatcher.drain_s

    def executing(self) -> list[Execution]:
        """The executions under way."""
        return self._dispatcher.executing()

    def refusal(self, deadline: float | None) -> Callable[[], Rejected] | None:
        """Why a request that came now with this deadline would be refused, so that it need not be read; None where it may be accepted.

        The request is assumed to have one row, priority 0, and the shape of the smallest that came lately. Make the error only for a
        request that is refused with it, since each gets its own time to retry. It is not counted among the batcher's refusals.
        """
        return self._dispatcher.refusal(deadline)

    async def submit(
        self, inputs: Mapping[str, Array], rows: int, *, deadline: float | None = None, priority: int = 0
    ) -> Answer:
        """Answer one request of `rows` rows, whose inputs have passed `check_inputs`.

        `deadline` is a time of the batcher's clock; a lower `priority` is more urgent. Cancelling the caller frees its place.

        Raises:
            QueueFull, DeadlineExceeded, Closed: The request is not answered; see `rejections`.
            ExecutionError: The model failed on this request's own rows.
            ArtifactError: The model lost or added rows in a batch.
        """
        call = self._admit(inputs, rows, deadline, priority)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._cancel(call)
            raise

    async def drain(self) -> None:
        """Refuse new requests, and wait until all that were accepted are answered."""
        self._open = False
        self._check_drained()
        await self._drained.wait()

    async def close(self) -> None:
        """Refuse new and queued requests, let running executions end, and end the threads.

        A model that hangs makes this wait: bound it with a timeout, which leaves that thread to end with the process.
        """
        self._open = False
        self._deliver([Settled(call, Closed(), "closed") for call in self._dispatcher.clear()])
        try:
            await self.drain()
        finally:
            self._dispatcher.stop()
        self._dispatcher.join()

    def _admit(self, inputs: Mapping[str, Array], rows: int, deadline: float | None, priority: int) -> Call:
        if not self._open:
            self.counters.calls["closed"] += 1
            raise Closed
        now = self._clock()
        deadline = now + self.options.default_timeout_s if deadline is None else deadline
        shape = self._collator.shape(inputs)
        group = self._collator.group(inputs, shape)
        order = (priority, deadline, next(self._sequence))
        call = Call(order, now, rows, group, shape, self._latency_model, inputs, self._loop.create_future())
        try:
            self._dispatcher.accept(call, now)
        except QueueFull:
            self.counters.calls["queue_full"] += 1
            raise
        except DeadlineExceeded:
            self.counters.calls["infeasible"] += 1
            raise
        self._pending += 1
        if deadline < math.inf:
            call.timer = self._loop.call_later(deadline - now, self._expire, call)
        return call

    def _expire(self, call: Call) -> None:
        """The timer of one call: refuse it if its deadline has passed on the batcher's clock."""
        now = self._clock()
        if now < call.deadline:
            call.timer = self._loop.call_later(call.deadline - now, self._expire, call)
            return
        self._deliver([expired(call) if self._dispatcher.discard(call) else late(call)])

    def _cancel(self, call: Call) -> None:
        """The caller has gone: free its place in the queue, or drop the answer if it runs already."""
        if not call.future.cancelled():
            return  # it was settled in the same moment
        self._dispatcher.discard(call)
        self.counters.calls["cancelled"] += 1
        self._forget(call)
        self._check_drained()

    def _deliver(self, settled: Sequence[Settled]) -> None:
        """Pass answers and errors to their callers, except those that have gone or been refused meanwhile."""
        for call, result, outcome in settled:
            if call.future.done():
                continue
            self.counters.calls[outcome] += 1
            self._forget(call)
            if isinstance(result, Answer):
                call.future.set_result(result)
            else:
                call.future.set_exception(result)
        self._check_drained()

    def _forget(self, call: Call) -> None:
        self._pending -= 1
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None

    def _check_drained(self) -> None:
        if not self._open and not self._pending and not self._dispatcher.running:
            self._drained.set()
