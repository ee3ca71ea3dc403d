"""A replica's look at its own health: signs are read, and what they suggest is confirmed before it is called sick."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from optimize.errors import ExecutionError
from serve.models.hosting import Hosted
from serve.monitoring.health_signals import Ailment, Course, Signs, together


class Checkup:
    """The courses of all that a replica hosts; `slow_replicas` asks every replica of the service, this one included, if it is slow."""

    def __init__(
        self, slow_replicas: Callable[[], Awaitable[Sequence[bool]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._slow_replicas = slow_replicas
        self._clock = clock
        self._courses: dict[tuple[str, int], Course] = {}

    @property
    def slow(self) -> bool:
        """Whether anything here was slow when it was last seen at work."""
        return any(course.slow for course in self._courses.values())

    async def ailment(self, hosted: Sequence[Hosted]) -> str | None:
        """What is wrong and with which model, where something is."""
        courses = {(one.manifest.model, one.manifest.version): one for one in hosted}
        self._courses = {key: self._courses.get(key) or Course(self._clock) for key in courses}
        for key, one in courses.items():
            found = self._courses[key].observe(Signs.of(one.batcher))
            if found is not None and await self._confirmed(found, one):
                return f"model {key[0]} version {key[1]}: {found}"
        return None

    async def _confirmed(self, found: Ailment, one: Hosted) -> bool:
        match found:
            case Ailment.FAILING:
                return one.probe is None or await _raises(one.probe)
            case Ailment.SLOW:
                return not together(await self._slow_replicas())
            case Ailment.STUCK:
                return True


async def _raises(probe: Callable[[], None]) -> bool:
    try:
        await asyncio.to_thread(probe)
    except ExecutionError:
        return True
    return False
