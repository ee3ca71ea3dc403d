"""The policy in simulated time: Poisson arrivals, a door, workers that run what the queue gives, and nothing that is not seeded."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from optimize.runtime.batching.scheduling.latency_model import LatencyModel
from optimize.runtime.batching.scheduling.queue import QueuedRequest
from optimize.runtime.batching.scheduling.scheduler import Scheduler


@dataclass(frozen=True)
class Load:
    """Requests of one row, `rate` a second for `seconds`, each allowed what `timeout_s` draws."""

    rate: float
    seconds: float
    timeout_s: Callable[[random.Random], float]


class Simulation:
    """One run: `refused` at the door, `dropped` from the queue, answered `in_time` or `late`.

    An execution takes its promise times a factor drawn from `noise`.
    """

    def __init__(self, latency_model: LatencyModel, load: Load, workers: int, noise: tuple[float, ...]) -> None:
        self.in_time = self.late = self.refused = self.dropped = self.rows = self.executions = 0
        self._forecast = latency_model
        self._load = load
        self._noise = noise
        self._chance = random.Random(1)
        self._scheduler: Scheduler[QueuedRequest] = Scheduler(latency_model, batchable=True, workers=workers)
        self._busy_until = [0.0] * workers
        self._idle = set(range(workers))
        self._running: list[tuple[float, int]] = []

    def run(self) -> None:
        """Let all requests come, and all that were accepted end."""
        now, number = 0.0, 0
        while now < self._load.seconds:
            now += self._chance.expovariate(self._load.rate)
            number += 1
            while self._running and self._running[0][0] <= now:
                self._finish()
            self._arrive(now, number)
        while self._running:
            self._finish()

    def _arrive(self, now: float, number: int) -> None:
        deadline = now + self._load.timeout_s(self._chance)
        request = QueuedRequest((0, deadline, number), now, 1, (), (), self._forecast)
        remaining_s = [max(0.0, until - now) for until in self._busy_until]
        if self._idle:
            self._start(now, self._idle.pop(), [request])
        elif now + self._scheduler.answer_s(request, remaining_s) > deadline:
            self.refused += 1
        else:
            self._scheduler.add(request)

    def _finish(self) -> None:
        now, worker = heapq.heappop(self._running)
        batch, dropped = self._scheduler.next_batch(now)
        self.dropped += len(dropped)
        if batch:
            self._start(now, worker, batch)
        else:
            self._idle.add(worker)

    def _start(self, now: float, worker: int, batch: list[QueuedRequest]) -> None:
        execution_s = self._forecast.promised_s(len(batch), ()) * self._chance.choice(self._noise)
        self._busy_until[worker] = now + self._forecast.expected_s(len(batch), ())
        self._forecast.observe(len(batch), (), execution_s)
        heapq.heappush(self._running, (now + execution_s, worker))
        self.executions += 1
        self.rows += len(batch)
        in_time = sum(now + execution_s <= request.deadline for request in batch)
        self.in_time += in_time
        self.late += len(batch) - in_time
