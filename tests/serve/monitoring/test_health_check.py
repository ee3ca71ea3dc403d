"""The health check of a replica, with a batcher over a session that the test breaks."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from optimize.arrays import Array, Arrays
from optimize.errors import ExecutionError
from optimize.manifest import CurvePoint, Manifest
from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.scheduling.curve import Curve
from serve.models.loading import LoadedVersion
from serve.monitoring.health_check import HealthCheck
from serve.monitoring.health_signals import FAILURES, SLOW_FOR_S
from tests.optimize.runtime.fakes import FakeClock
from tests.published import identity, publish

X = {"x": np.ones((1, 4), np.float32)}
POISON = {"x": np.zeros((1, 4), np.float32)}
PROMISED_S = 1.0


class Breakable:
    """y = x, in `seconds` of the clock; raises on a row of zeros, or on everything once it is broken."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.broken = False
        self.seconds = PROMISED_S

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        assert outputs in (None, ["y"])
        self.clock.now += self.seconds
        if self.broken or not inputs["x"].any(axis=1).all():
            raise ExecutionError("cannot")
        return {"y": inputs["x"]}


class Patient:
    """One loaded version, its session, and what a check says of it."""

    def __init__(self, manifest: Manifest, slow_replicas: Sequence[bool]) -> None:
        self.clock = FakeClock()
        self.session = Breakable(self.clock)
        curve = Curve([CurvePoint({}, 1, 1e3 * PROMISED_S, 1e3 * PROMISED_S, 100)])
        options = BatcherOptions(max_batch=1, max_queue_rows=8, default_timeout_s=1e6)
        batcher = Batcher([self.session], manifest.signature, curve, options, self.clock)
        self.version = LoadedVersion(manifest, batcher, probe=lambda: self.session.run(X) and None)
        self.asked = 0
        self._slow_replicas = slow_replicas
        self.check = HealthCheck(self.ask, self.clock)

    async def ask(self) -> Sequence[bool]:
        self.asked += 1
        return self._slow_replicas

    async def call(self, inputs: Arrays, times: int = 1) -> None:
        for _ in range(times):
            await asyncio.gather(self.version.batcher.submit(inputs, 1), return_exceptions=True)

    async def look(self) -> str | None:
        return await self.check.problem([self.version])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("models")
    return publish(folder / "registry", "digits", identity(), folder)


@asynccontextmanager
async def patient_with(manifest: Manifest, slow_replicas: Sequence[bool] = (True, False)) -> AsyncIterator[Patient]:
    opened = Patient(manifest, slow_replicas)
    async with opened.version.batcher:
        yield opened


def test_a_session_that_fails_on_everything_is_sick(manifest: Manifest) -> None:
    async def story() -> None:
        async with patient_with(manifest) as patient:
            patient.session.broken = True
            await patient.call(X, FAILURES - 1)
            assert await patient.look() is None
            await patient.call(X)
            assert (
                await patient.look() == "model digits version 1: every execution fails, that of a golden input included"
            )

    asyncio.run(story())


def test_requests_that_a_healthy_session_cannot_answer_make_no_replica_sick(manifest: Manifest) -> None:
    async def story() -> None:
        async with patient_with(manifest) as patient:
            await patient.call(POISON, 3 * FAILURES)
            assert await patient.look() is None

    asyncio.run(story())


@pytest.mark.parametrize(
    ("slow_replicas", "sick"), [((True, False), True), ((True, True, False), False), ((True,), False)]
)
def test_a_slow_replica_is_sick_unless_most_are_slow(
    manifest: Manifest, slow_replicas: Sequence[bool], sick: bool
) -> None:
    async def story() -> None:
        async with patient_with(manifest, slow_replicas) as patient:
            patient.session.seconds = 10 * PROMISED_S
            await patient.call(X, 10)
            assert await patient.look() is None
            assert patient.check.slow
            assert patient.asked == 0, "the other replicas are asked only once it matters"
            await patient.call(X, 1)
            assert await patient.look() is None
            await patient.call(X, int(SLOW_FOR_S / patient.session.seconds))
            found = await patient.look()
            assert patient.asked == 1
            assert (found is not None) is sick

    asyncio.run(story())


def test_a_version_that_is_gone_is_forgotten(manifest: Manifest) -> None:
    async def story() -> None:
        async with patient_with(manifest) as patient:
            patient.session.seconds = 10 * PROMISED_S
            await patient.call(X, 10)
            await patient.look()
            assert patient.check.slow
            assert await patient.check.problem([]) is None
            assert not patient.check.slow

    asyncio.run(story())
