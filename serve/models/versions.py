"""Which versions a replica serves: pinned ones, and the registry's current version, which may change.

A new current version is loaded, checked and warmed up while the previous one answers, and then replaces it: no call fails, even with a
single replica. A version that cannot be served is refused, and the previous one goes on.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from optimize.errors import ArtifactError, ProveserveError
from optimize.registry import Registry
from serve import logs
from serve.models.hosting import Models
from serve.served_versions import ServedModel

POLL_S = 3.0
"""How often a replica asks the registry which version is current."""

RETRY_S = 60.0
"""When a refused version is tried again: the storage may have been unreachable, or a file may have been restored."""

CLOSE_TIMEOUT_S = 60.0
"""How long to wait for the calls of a replaced version; their deadlines, or the default one, end sooner."""


class Versions:
    """The versions that one replica serves. For the event loop of its models."""

    def __init__(self, models: Models, registry: Registry, served: Iterable[ServedModel], replicas: int) -> None:
        self._followers = [Follower(models, registry, model, replicas) for model in served]
        self._tasks: list[asyncio.Task[None]] = []

    async def load(self) -> None:
        """Load every version, then follow what is current.

        Raises:
            ArtifactError: A version cannot be served as it was published.
        """
        try:
            for follower in self._followers:
                await follower.load()
        except ProveserveError as error:
            logs.event("start_failed", logging.ERROR, reason=str(error))  # Ray Serve tries again
            raise
        self._tasks = [asyncio.create_task(one.follow()) for one in self._followers if one.model.follows]

    async def stop(self) -> None:
        """Keep the versions that answer now."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Follower:
    """Keeps one model at the current version, and its pinned versions loaded."""

    def __init__(self, models: Models, registry: Registry, model: ServedModel, replicas: int) -> None:
        self.model = model
        self._models = models
        self._registry = registry
        self._replicas = replicas
        self._answering = model.version
        self._refused: int | None = None  # the version that was refused last, until it is tried again
        self._retry_at = 0.0
        self._last_refusal = ""

    async def load(self) -> None:
        """Load the version that answers first, and the pinned ones.

        Raises:
            ArtifactError: One of them cannot be served as it was published.
        """
        await self._load_first(await asyncio.to_thread(self._start_versions))
        for version in self.model.pinned:
            await self._load(version)

    async def follow(self) -> None:
        """Keep the model at the current version as long as the replica lives."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.update()

    async def update(self) -> None:
        """Ask the registry once, and switch to its current version if that has changed."""
        try:
            await self._update()
        except Exception as error:  # noqa: BLE001 - the process boundary: a bad registry or version must not end the previous one
            if str(error) != self._last_refusal:
                self._log_refusal(error)
            self._last_refusal = str(error)

    async def _update(self) -> None:
        refused, self._refused = self._refused, None  # an error of the registry itself is not the version's
        current = await asyncio.to_thread(self._registry.current, self.model.name)
        if current is None:
            raise ArtifactError(
                f"{self.model.name}: no version is current any more in {self._registry.place}; name one with `optimize promote`"
            )
        if current == self._answering:
            self._last_refusal = ""
            return
        if current == refused and time.monotonic() < self._retry_at:
            self._refused = refused
            return
        self._refuse_for_now(current)  # until it has passed the checks
        await self._load(current)
        self._refused, self._last_refusal = None, ""
        await self._switch_to(current)

    async def _switch_to(self, version: int) -> None:
        """Let a loaded version answer, and unload the previous one."""
        before, self._answering = self._answering, version
        self._models.set_default(self.model.name, version)
        logs.event("version_taken", model=self.model.name, version=version, before=before)
        if before in self.model.pinned:
            return
        try:
            await asyncio.wait_for(self._models.unload(self.model.name, before), CLOSE_TIMEOUT_S)
        except TimeoutError:  # one of its executions hangs; later versions need not wait for it
            logs.event("version_lingers", logging.WARNING, model=self.model.name, version=before)

    def _start_versions(self) -> tuple[int, ...]:
        """The versions to start with, in order of preference.

        A replica that replaces a lost one starts with the version that is current now. If that is refused, as the other replicas
        refused it, it takes what they most likely have: the version before, or else the one that the service started with.
        """
        started_with = self.model.version
        current = self._registry.current(self.model.name) if self.model.follows else None
        if current is None or current == started_with:
            return (started_with,)
        before = [version for version in self._registry.versions(self.model.name) if version < current]
        return tuple(dict.fromkeys((current, *before[-1:], started_with)))

    async def _load_first(self, versions: tuple[int, ...]) -> None:
        *preferred, last = versions
        for version in preferred:
            try:
                await self._load(version)
            except ArtifactError as error:
                self._refuse_for_now(version)
                self._log_refusal(error)
            else:
                self._answering = version
                return
        await self._load(last)
        self._answering = last

    def _refuse_for_now(self, version: int) -> None:
        self._refused, self._retry_at = version, time.monotonic() + RETRY_S

    def _log_refusal(self, error: Exception) -> None:
        foreseen = isinstance(error, ProveserveError)
        logs.event(
            "update_refused",
            logging.WARNING,
            None if foreseen else error,
            model=self.model.name,
            version=self._refused,
            answering=self._answering,
            reason=str(error),
        )

    async def _load(self, version: int) -> None:
        """Load a version, unless calls can reach it already."""
        if version not in self._models.versions(self.model.name):
            started = time.monotonic()
            manifest = await asyncio.to_thread(self._registry.load, self.model.name, version)
            await self._models.load(self._registry, manifest, self._replicas)
            here = self._models.find(self.model.name, str(version)).measured_here
            logs.event(
                "version_opened",
                logging.INFO if here else logging.WARNING,
                model=self.model.name,
                version=version,
                digest=manifest.digest,
                measured="here" if here else "elsewhere",
                seconds=round(time.monotonic() - started, 3),
            )
