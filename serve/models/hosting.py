"""The models that one process hosts: opened, checked, behind their batchers, and found by name and version."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import grpc
import numpy as np

from optimize.arrays import Array, Arrays
from optimize.errors import ArtifactError, ExecutionError, InputError
from optimize.execution.machine import cores, describe
from optimize.manifest import Manifest, Signature
from optimize.registry import Registry
from optimize.runtime import golden
from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.curve import Curve
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.rejections import Rejected
from optimize.runtime.session import OnnxSession, check_inputs, instances
from serve.client import codec
from serve.models import health, preprocessing
from serve.models.compatibility import obstacle
from serve.models.preprocessing import RawColumns
from serve.models.refused import Refused

DEFAULT_TIMEOUT_S = 30.0
"""How long a call without a deadline may take."""

QUEUED_BATCHES = 32
"""Full batches that may wait per model before callers are told to come again, but always as many as ..."""

QUEUED_ROWS = 1024
"""... so many rows, since small batches of a light model are worked off before the next burst of calls has been read."""


@dataclass(frozen=True)
class Hosted:
    """One version of one model, ready to be called."""

    manifest: Manifest
    batcher: Batcher
    measured_here: bool = True
    probe: Callable[[], None] | None = None
    """Runs a golden input on every session, past the batcher; raises what a session raises."""
    preprocessing: RawColumns | None = None
    """Takes requests of raw columns, where the version has a preprocessing."""

    @cached_property
    def max_rows(self) -> int | None:
        """The most rows of a request; None where requests are run one at a time, whatever they hold."""
        signature = self.manifest.signature
        return signature.max_batch if signature.batchable else None

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
        rows = check_inputs(self.manifest.signature, inputs)
        if self.max_rows is None:
            return 1
        if not 1 <= rows <= self.max_rows:
            raise InputError(f"the request has {rows} rows; wanted 1 to {self.max_rows}")
        return rows


@contextlib.asynccontextmanager
async def opened(registry: Registry, manifest: Manifest, replicas: int = 1) -> AsyncIterator[Hosted]:
    """Open one version: digests held, golden answers reproduced, batcher running over as many sessions as were measured.

    The cores are shared with so many `replicas`. Whatever takes time happens off the event loop, which may be answering calls.

    Raises:
        ArtifactError: A file is missing or damaged, cannot be opened here, or answers otherwise than when it was measured.
    """
    signature = manifest.signature
    options = BatcherOptions(
        max_batch=signature.max_batch,
        max_queue_rows=queued_rows(signature),
        default_timeout_s=DEFAULT_TIMEOUT_S,
    )
    stack = contextlib.ExitStack()
    try:
        proved = await asyncio.to_thread(_prove, registry, manifest, replicas, stack)
        async with Batcher(proved.sessions, signature, Curve(manifest.curve), options) as batcher:
            yield Hosted(manifest, batcher, proved.measured_here, proved.probe, proved.preprocessing)
    finally:
        await asyncio.to_thread(stack.close)


def queued_rows(signature: Signature) -> int:
    """Rows that may wait for a model."""
    return max(QUEUED_BATCHES * signature.max_batch, QUEUED_ROWS)


def session_count(manifest: Manifest, replicas: int) -> int:
    """Sessions of one replica: as many as the operating point for single requests has, within this replica's share of the cores."""
    measured = 1 if manifest.online is None else manifest.online.instances
    return max(1, min(measured, cores() // (manifest.artifact.options.threads * replicas)))


class _Proved(NamedTuple):
    sessions: list[OnnxSession]
    measured_here: bool
    golden_inputs: Arrays
    preprocessing: RawColumns | None

    def probe(self) -> None:
        for session in dict.fromkeys(self.sessions):
            session.run(self.golden_inputs)


def _prove(registry: Registry, manifest: Manifest, replicas: int, stack: contextlib.ExitStack) -> _Proved:
    """Sessions over checked files, which gave the golden answers and have run the largest batch; `stack` closes them."""
    here = describe()
    reason = obstacle(manifest, here, replicas)
    if reason is not None:
        raise ArtifactError(reason)
    path = registry.model_file(manifest)
    answers = registry.blob(manifest.golden.blob)
    sessions = stack.enter_context(instances(path, manifest.artifact.options, session_count(manifest, replicas)))
    inputs, _ = golden.load(answers, manifest.golden)[0]
    for session in dict.fromkeys(sessions):
        golden.replay(session, answers, manifest.golden)
        _warm_up(session, manifest, inputs)
    columns = stack.enter_context(preprocessing.opened(registry, manifest))
    return _Proved(sessions, registry.measured_on(manifest, here), inputs, columns)


def _warm_up(session: OnnxSession, manifest: Manifest, inputs: Arrays) -> None:
    """Run the largest batch once, so that no caller waits for the memory that it takes."""
    signature = manifest.signature
    axes = {spec.name: spec.batch_axis for spec in signature.inputs}
    largest = {
        name: array
        if not signature.batchable or (axis := axes[name]) is None
        else np.take(array, np.arange(signature.max_batch) % array.shape[axis], axis=axis)
        for name, array in inputs.items()
    }
    try:
        session.run(largest)
    except ExecutionError as error:
        raise ArtifactError(
            f"{manifest.model} version {manifest.version}: fails on a batch of {signature.max_batch} rows:"
            f" {error}; export the model again"
        ) from None


class Models:
    """All models of a process by name and version, those that still load included. Lives on one event loop."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._hosted: dict[str, dict[int, Hosted]] = {name: {} for name in self._names}
        self._default: dict[str, int] = {}
        self._open: dict[tuple[str, int], contextlib.AsyncExitStack] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.health = health.Health(self._names)

    @property
    def ready(self) -> bool:
        """Whether every model can be called."""
        return self.health.is_serving(health.SERVER)

    @property
    def hosted(self) -> tuple[Hosted, ...]:
        """Every version that calls can reach. May be asked for from any thread."""
        return tuple(hosted for versions in self._hosted.values() for hosted in tuple(versions.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def versions(self, name: str) -> list[int]:
        """Versions of a model that calls can reach, ascending."""
        return sorted(self._hosted[name])

    async def load(self, registry: Registry, manifest: Manifest, replicas: int = 1) -> None:
        """Open a version and admit calls to it; the cores are shared with so many `replicas`.

        Raises:
            ArtifactError: It cannot be served as it was published.
        """
        stack = contextlib.AsyncExitStack()
        hosted = await stack.enter_async_context(opened(registry, manifest, replicas))
        stack.push_async_callback(hosted.batcher.drain)
        self._open[manifest.model, manifest.version] = stack
        self.admit(hosted)

    def admit(self, hosted: Hosted) -> None:
        """Let calls reach an open version; the first of a model answers calls that name no version."""
        name, version = hosted.manifest.model, hosted.manifest.version
        self._hosted[name][version] = hosted
        self._default.setdefault(name, version)
        self.health.set_serving(name)

    def prefer(self, name: str, version: int) -> None:
        """Let a loaded version answer the calls that name none."""
        self._default[name] = version

    async def retire(self, name: str, version: int) -> None:
        """Take no more calls for a version, and close it when those that it accepted are answered."""
        # A call looks its version up and enters that one's queue in one step of the loop, so none is turned away here.
        del self._hosted[name][version]
        closing = asyncio.create_task(self._open.pop((name, version)).aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.shield(closing)  # accepted calls are answered, also when nobody waits for it any more

    def find(self, name: str, version: str) -> Hosted:
        """The version that a call names; the preferred one where it names none.

        Raises:
            InputError: The version is no number.
            Refused: There is no such model or version, or it still loads.
        """
        if version and not (version.isascii() and version.isdigit() and len(version) < 10):
            raise InputError("the model version is not a number; wanted one such as 1, or none for the current one")
        if name not in self._names:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no model of that name; served: {', '.join(self._names)}")
        hosted = self._hosted[name]
        if not hosted:
            raise Refused(grpc.StatusCode.UNAVAILABLE, f"model {name} is still loading; try again")
        wanted = int(version) if version else self._default[name]
        if wanted not in hosted:
            served = ", ".join(map(str, sorted(hosted)))
            raise Refused(grpc.StatusCode.NOT_FOUND, f"model {name} has no version {version} here; served: {served}")
        return hosted[wanted]

    def refusal(self, deadline: float | None) -> Rejected | None:
        """Why no model here would take a call with this deadline, whatever it asks; None where one may."""
        tell = None
        for versions in self._hosted.values():
            for hosted in versions.values():
                tell = hosted.batcher.refusal(deadline)
                if tell is None:
                    return None
        return tell and tell()

    async def drain(self) -> None:
        """Say NOT_SERVING, refuse new calls, finish those that were accepted, and close the models."""
        self.health.close()
        await asyncio.gather(*(hosted.batcher.drain() for hosted in self.hosted), *self._closing)
        while self._open:
            await self._open.popitem()[1].aclose()
