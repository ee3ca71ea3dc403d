"""The versions that one process serves, found by model name and version."""

import asyncio
import contextlib
from collections.abc import Iterable

import grpc

from optimize.errors import InputError
from optimize.manifest import Manifest
from optimize.registry import Registry
from optimize.runtime.batching.rejections import Rejected
from serve.models import health, loading
from serve.models.loading import LoadedVersion
from serve.models.refused import Refused


class Models:
    """All models of a process by name and version, including those that are still loading. For one event loop."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._versions: dict[str, dict[int, LoadedVersion]] = {name: {} for name in self._names}
        self._default: dict[str, int] = {}
        self._open: dict[tuple[str, int], contextlib.AsyncExitStack] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.health = health.Health(self._names)

    @property
    def ready(self) -> bool:
        """Whether every model can be called."""
        return self.health.is_serving(health.SERVER)

    @property
    def loaded(self) -> tuple[LoadedVersion, ...]:
        """Every version that calls can reach. Thread-safe."""
        return tuple(version for versions in self._versions.values() for version in tuple(versions.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def versions(self, name: str) -> list[int]:
        """Versions of a model that calls can reach, in ascending order."""
        return sorted(self._versions[name])

    async def load(self, registry: Registry, manifest: Manifest, replicas: int = 1) -> None:
        """Load a version and let calls reach it; `replicas` share the cores.

        Raises:
            ArtifactError: It cannot be served as it was published.
        """
        stack = contextlib.AsyncExitStack()
        version = await stack.enter_async_context(loading.loaded(registry, manifest, replicas))
        stack.push_async_callback(version.batcher.drain)
        self._open[manifest.model, manifest.version] = stack
        self.add(version)

    def add(self, loaded: LoadedVersion) -> None:
        """Let calls reach a version; the first one of a model becomes its default."""
        name, version = loaded.manifest.model, loaded.manifest.version
        self._versions[name][version] = loaded
        self._default.setdefault(name, version)
        self.health.set_serving(name)

    def set_default(self, name: str, version: int) -> None:
        """Let a loaded version answer the calls that name no version."""
        self._default[name] = version

    async def unload(self, name: str, version: int) -> None:
        """Take no more calls for a version, and close it when those that it accepted are answered."""
        # A call finds its version and enters that version's queue in one step of the loop, so no call is refused here.
        del self._versions[name][version]
        closing = asyncio.create_task(self._open.pop((name, version)).aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.shield(closing)  # a cancelled caller leaves no accepted call without an answer

    def find(self, name: str, version: str) -> LoadedVersion:
        """The version that a call names, or the default one.

        Raises:
            InputError: The version is not a number.
            Refused: There is no such model or version, or it is still loading.
        """
        if version and not (version.isascii() and version.isdigit() and len(version) < 10):
            raise InputError("the model version is not a number; wanted one such as 1, or none for the current one")
        if name not in self._names:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no model of that name; served: {', '.join(self._names)}")
        versions = self._versions[name]
        if not versions:
            raise Refused(grpc.StatusCode.UNAVAILABLE, f"model {name} is still loading; try again")
        wanted = int(version) if version else self._default[name]
        if wanted not in versions:
            served = ", ".join(map(str, sorted(versions)))
            raise Refused(grpc.StatusCode.NOT_FOUND, f"model {name} has no version {version} here; served: {served}")
        return versions[wanted]

    def refusal(self, deadline: float | None) -> Rejected | None:
        """Why no model here can answer a call with this deadline, whatever it asks for; None if one may."""
        make_refusal = None
        for versions in self._versions.values():
            for version in versions.values():
                make_refusal = version.batcher.refusal(deadline)
                if make_refusal is None:
                    return None
        return make_refusal and make_refusal()

    async def drain(self) -> None:
        """Report NOT_SERVING, refuse new calls, answer the accepted ones, and close the models."""
        self.health.close()
        await asyncio.gather(*(version.batcher.drain() for version in self.loaded), *self._closing)
        while self._open:
            await self._open.popitem()[1].aclose()
