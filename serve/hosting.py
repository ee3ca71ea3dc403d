"""The models that one process hosts: opened, checked, behind their batchers, and found by name and version."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grpc

from optimize.errors import ArtifactError, InputError
from optimize.machine import cores
from optimize.manifest import Manifest
from optimize.registry import Registry
from optimize.runtime import golden
from optimize.runtime.batcher import Batcher, BatcherOptions
from optimize.runtime.curve import Curve
from optimize.runtime.session import Array, check_inputs, instances
from serve import codec, health
from serve.status import Refused

DEFAULT_TIMEOUT_S = 30.0
"""How long a call without a deadline may take."""

QUEUED_BATCHES = 32
"""Full batches that may wait per model before callers are told to come again."""


@dataclass(frozen=True)
class Hosted:
    """One version of one model, ready to be called."""

    manifest: Manifest
    batcher: Batcher

    @cached_property
    def input_datatypes(self) -> dict[str, str]:
        """The protocol's datatype of each input, in the model's order."""
        return {spec.name: codec.datatype_of(spec.dtype) for spec in self.manifest.signature.inputs}

    @cached_property
    def output_datatypes(self) -> dict[str, str]:
        """The protocol's datatype of each output, in the model's order."""
        return {spec.name: codec.datatype_of(spec.dtype) for spec in self.manifest.signature.outputs}

    def rows(self, inputs: dict[str, Array]) -> int:
        """Hold a request against the model's signature and return the rows it takes of a batch.

        Raises:
            InputError: The inputs do not fit the signature, or are more rows than one execution takes.
        """
        signature = self.manifest.signature
        rows = check_inputs(signature, inputs)
        if not signature.batchable:
            return 1
        if not 1 <= rows <= signature.max_batch:
            raise InputError(f"the request has {rows} rows; wanted 1 to {signature.max_batch}")
        return rows


@contextlib.asynccontextmanager
async def opened(registry: Registry, manifest: Manifest, replicas: int = 1) -> AsyncIterator[Hosted]:
    """Open one version: digests held, golden answers reproduced, batcher running over as many sessions as were measured.

    The cores are shared with so many `replicas`.

    Raises:
        ArtifactError: A file is missing or damaged, cannot be opened, or answers otherwise than when it was measured.
    """
    path = await asyncio.to_thread(_checked_file, registry, manifest)
    signature = manifest.signature
    options = BatcherOptions(
        max_batch=signature.max_batch,
        max_queue_rows=QUEUED_BATCHES * signature.max_batch,
        default_timeout_s=DEFAULT_TIMEOUT_S,
    )
    with instances(path, manifest.artifact.options, session_count(manifest, replicas)) as sessions:
        await asyncio.to_thread(golden.replay, sessions[0], registry.blob(manifest.golden.blob), manifest.golden)
        async with Batcher(sessions, signature, Curve(manifest.curve), options) as batcher:
            yield Hosted(manifest, batcher)


def session_count(manifest: Manifest, replicas: int) -> int:
    """Sessions of one replica: as many as the operating point for single requests has, within this replica's share of the cores."""
    measured = 1 if manifest.online is None else manifest.online.instances
    return max(1, min(measured, cores() // (manifest.artifact.options.threads * replicas)))


def _checked_file(registry: Registry, manifest: Manifest) -> Path:
    if manifest.artifact.format != "onnx":
        raise ArtifactError(
            f"{manifest.model} version {manifest.version}: is a {manifest.artifact.format} engine; wanted an ONNX file:"
            " promote a version whose runtime is onnxruntime"
        )
    return registry.model_file(manifest)


class Models:
    """All models of a process by name, those that still load included."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._hosted: dict[str, Hosted] = {}
        self._open = contextlib.AsyncExitStack()
        self.health = health.Health(self._names)

    @property
    def ready(self) -> bool:
        """Whether every model can be called."""
        return self.health.is_serving(health.SERVER)

    @property
    def hosted(self) -> tuple[Hosted, ...]:
        """Every version that calls can reach."""
        return tuple(self._hosted.values())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    async def load(self, registry: Registry, manifest: Manifest, replicas: int = 1) -> None:
        """Open a version and admit calls to it; the cores are shared with so many `replicas`.

        Raises:
            ArtifactError: It cannot be served as it was published.
        """
        self.admit(await self._open.enter_async_context(opened(registry, manifest, replicas)))

    def admit(self, hosted: Hosted) -> None:
        """Let calls reach an open model."""
        self._hosted[hosted.manifest.model] = hosted
        self.health.set_serving(hosted.manifest.model)

    def find(self, name: str, version: str) -> Hosted:
        """The model that a call names; an empty version is the one that is served.

        Raises:
            InputError: The version is no number.
            Refused: There is no such model or version, or it still loads.
        """
        if version and not (version.isascii() and version.isdigit() and len(version) < 10):
            raise InputError("the model version is not a number; wanted one such as 1, or none for the current one")
        if name not in self._names:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no model of that name; served: {', '.join(self._names)}")
        hosted = self._hosted.get(name)
        if hosted is None:
            raise Refused(grpc.StatusCode.UNAVAILABLE, f"model {name} is still loading; try again")
        if version and int(version) != hosted.manifest.version:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                f"model {name} has no version {version} here; served: {hosted.manifest.version}",
            )
        return hosted

    async def drain(self) -> None:
        """Say NOT_SERVING, refuse new calls, finish those that were accepted, and close the models."""
        self.health.close()
        await asyncio.gather(*(hosted.batcher.drain() for hosted in self._hosted.values()))
        await self._open.aclose()
