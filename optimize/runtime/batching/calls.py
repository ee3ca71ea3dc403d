"""A request together with the caller who waits for its answer, and how it ends."""

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from optimize.arrays import Array, Arrays
from optimize.runtime.batching.collate import Shape
from optimize.runtime.batching.counters import Outcome
from optimize.runtime.batching.rejections import DeadlineExceeded
from optimize.runtime.batching.scheduling.latency_model import LatencyModel
from optimize.runtime.batching.scheduling.queue import Order, QueuedRequest


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's own rows of the outputs, and what they cost."""

    outputs: Arrays
    queue_s: float
    execution_s: float
    batch_rows: int


class Call(QueuedRequest):
    """One request and the future of its caller."""

    __slots__ = ("future", "inputs", "timer")

    def __init__(
        self,
        order: Order,
        arrived: float,
        rows: int,
        group: Hashable,
        shape: Shape,
        latency_model: LatencyModel,
        inputs: Mapping[str, Array],
        future: asyncio.Future[Answer],
    ) -> None:
        super().__init__(order, arrived, rows, group, shape, latency_model)
        self.inputs = inputs
        self.future = future
        self.timer: asyncio.TimerHandle | None = None


class Settled(NamedTuple):
    """The end of one call: what its caller gets, and how it is counted."""

    call: Call
    result: Answer | Exception
    outcome: Outcome


def expired(call: Call) -> Settled:
    """The end of a call whose deadline passed in the queue."""
    allowed_s = call.deadline - call.arrived
    return Settled(call, DeadlineExceeded(f"not run within the {allowed_s:.3f} s it had; allow more time"), "expired")


def late(call: Call) -> Settled:
    """The end of a call whose deadline passed while it ran."""
    allowed_s = call.deadline - call.arrived
    return Settled(call, DeadlineExceeded(f"still running after the {allowed_s:.3f} s it had; allow more time"), "late")


def extent(batch: Sequence[Call]) -> tuple[int, Shape]:
    """The rows of a batch, and the shape that its requests are padded to."""
    if len(batch) == 1:
        return batch[0].rows, batch[0].shape
    return sum(call.rows for call in batch), tuple(map(max, *(call.shape for call in batch)))
