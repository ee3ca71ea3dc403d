"""The health check of a replica: a problem that the signals suggest is confirmed before the replica is called sick."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from optimize.errors import ExecutionError
from serve.models.loading import LoadedVersion
from serve.monitoring.health_signals import HealthHistory, HealthProblem, HealthSignals, most_are_slow


class HealthCheck:
    """The health of everything that a replica serves; `slow_replicas` asks every replica of the service whether it is slow."""

    def __init__(
        self, slow_replicas: Callable[[], Awaitable[Sequence[bool]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._slow_replicas = slow_replicas
        self._clock = clock
        self._histories: dict[tuple[str, int], HealthHistory] = {}

    @property
    def slow(self) -> bool:
        """Whether anything here was slow in its latest executions."""
        return any(history.slow for history in self._histories.values())

    async def problem(self, versions: Sequence[LoadedVersion]) -> str | None:
        """What is wrong, and with which model; None if all is well."""
        loaded = {(one.manifest.model, one.manifest.version): one for one in versions}
        self._histories = {key: self._histories.get(key) or HealthHistory(self._clock) for key in loaded}
        for key, version in loaded.items():
            found = self._histories[key].observe(HealthSignals.of(version.batcher))
            if found is not None and await self._confirmed(found, version):
                return f"model {key[0]} version {key[1]}: {found}"
        return None

    async def _confirmed(self, problem: HealthProblem, version: LoadedVersion) -> bool:
        match problem:
            case HealthProblem.FAILING:
                return version.probe is None or await _raises(version.probe)
            case HealthProblem.SLOW:
                return not most_are_slow(await self._slow_replicas())
            case HealthProblem.STUCK:
                return True


async def _raises(probe: Callable[[], None]) -> bool:
    try:
        await asyncio.to_thread(probe)
    except ExecutionError:
        return True
    return False
