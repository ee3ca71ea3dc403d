"""Which versions a replica holds: the named ones, and the registry's `current` wherever it goes.

A new current version is loaded, checked and warmed beside the one that answers, and then takes its place: no call fails, and with one
replica none waits. A version that cannot be served is refused, and the one that answers goes on.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from optimize.errors import ArtifactError, ProveserveError
from optimize.registry import Registry
from serve import logs
from serve.models.hosting import Models
from serve.served_versions import Choice

POLL_S = 3.0
"""How often a replica asks the registry which version is current."""

RETRY_S = 60.0
"""How long a refused version is left alone, since a store may have been away or a file may be healed."""

CLOSE_TIMEOUT_S = 60.0
"""How long a replaced version is waited for: its calls end sooner, by their own deadline or by the default one."""


class Versions:
    """The versions that one replica was asked to serve. Lives on the loop of its models."""

    def __init__(self, models: Models, registry: Registry, choices: Iterable[Choice], replicas: int) -> None:
        self._followers = [Follower(models, registry, choice, replicas) for choice in choices]
        self._tasks: list[asyncio.Task[None]] = []

    async def load(self) -> None:
        """Open everything that calls can ask for, then go on following what is current.

        Raises:
            ArtifactError: A version cannot be served as it was published.
        """
        try:
            for follower in self._followers:
                await follower.load()
        except ProveserveError as error:
            logs.tell("start_failed", logging.ERROR, reason=str(error))  # Ray Serve tries again
            raise
        self._tasks = [asyncio.create_task(one.follow()) for one in self._followers if one.choice.follows]

    async def stop(self) -> None:
        """Stay with the versions that answer now."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Follower:
    """Keeps one model at the version that is current, and its pinned versions beside it."""

    def __init__(self, models: Models, registry: Registry, choice: Choice, replicas: int) -> None:
        self.choice = choice
        self._models = models
        self._registry = registry
        self._replicas = replicas
        self._answering = choice.version
        self._refused: int | None = None  # which version was refused last, until it is tried again
        self._retry_at = 0.0
        self._told = ""

    async def load(self) -> None:
        """Open the version that answers first, and the pinned ones.

        Raises:
            ArtifactError: One of them cannot be served as it was published.
        """
        await self._open_first(await asyncio.to_thread(self._candidates))
        for version in self.choice.pinned:
            await self._open(version)

    async def follow(self) -> None:
        """Hold the model at the current version for as long as the replica lives."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.look()

    async def look(self) -> None:
        """Ask the registry once, and take its current version where that is another one."""
        try:
            await self._look()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the registry or a new version, the old one goes on
            if str(error) != self._told:
                self._tell_refused(error)
            self._told = str(error)

    async def _look(self) -> None:
        refused, self._refused = self._refused, None  # no version is to blame where the registry itself cannot be read
        current = await asyncio.to_thread(self._registry.current, self.choice.name)
        if current is None:
            raise ArtifactError(
                f"{self.choice.name}: no version is current any more in {self._registry.place}; name one with `optimize promote`"
            )
        if current == self._answering:
            self._told = ""
            return
        if current == refused and time.monotonic() < self._retry_at:
            self._refused = refused
            return
        self._refuse_for_now(current)  # until it has shown that it can be served
        await self._open(current)
        self._refused, self._told = None, ""
        await self._take(current)

    async def _take(self, version: int) -> None:
        """Let an open version answer, and close the one that did."""
        before, self._answering = self._answering, version
        self._models.prefer(self.choice.name, version)
        logs.tell("version_taken", model=self.choice.name, version=version, before=before)
        if before in self.choice.pinned:
            return
        try:
            await asyncio.wait_for(self._models.retire(self.choice.name, before), CLOSE_TIMEOUT_S)
        except TimeoutError:  # one of its executions hangs; it closes once that ends, and later versions need not wait
            logs.tell("version_lingers", logging.WARNING, model=self.choice.name, version=before)

    def _candidates(self) -> tuple[int, ...]:
        """The versions to start with, the best first.

        A replica that takes the place of a lost one finds whatever is current by now. Where that is refused, as the others refused it,
        it goes on with what they have: most likely the version before, else what the service started with.
        """
        started_with = self.choice.version
        current = self._registry.current(self.choice.name) if self.choice.follows else None
        if current is None or current == started_with:
            return (started_with,)
        before = [version for version in self._registry.versions(self.choice.name) if version < current]
        return tuple(dict.fromkeys((current, *before[-1:], started_with)))

    async def _open_first(self, candidates: tuple[int, ...]) -> None:
        *better, last = candidates
        for version in better:
            try:
                await self._open(version)
            except ArtifactError as error:
                self._refuse_for_now(version)
                self._tell_refused(error)
            else:
                self._answering = version
                return
        await self._open(last)
        self._answering = last

    def _refuse_for_now(self, version: int) -> None:
        self._refused, self._retry_at = version, time.monotonic() + RETRY_S

    def _tell_refused(self, error: Exception) -> None:
        foreseen = isinstance(error, ProveserveError)
        logs.tell(
            "update_refused",
            logging.WARNING,
            None if foreseen else error,
            model=self.choice.name,
            version=self._refused,
            answering=self._answering,
            reason=str(error),
        )

    async def _open(self, version: int) -> None:
        """Admit calls to a version, unless they are already."""
        if version not in self._models.versions(self.choice.name):
            started = time.monotonic()
            manifest = await asyncio.to_thread(self._registry.load, self.choice.name, version)
            await self._models.load(self._registry, manifest, self._replicas)
            here = self._models.find(self.choice.name, str(version)).measured_here
            logs.tell(
                "version_opened",
                logging.INFO if here else logging.WARNING,
                model=self.choice.name,
                version=version,
                digest=manifest.digest,
                measured="here" if here else "elsewhere",
                seconds=round(time.monotonic() - started, 3),
            )
