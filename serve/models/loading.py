"""Load one version: its files are checked, its sessions opened and warmed up, and its batcher started."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.errors import ArtifactError, ExecutionError, InputError
from optimize.execution.machine import cores, describe
from optimize.manifest import Manifest, Signature
from optimize.registry import Registry
from optimize.runtime import golden
from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.scheduling.curve import Curve
from optimize.runtime.session import OnnxSession, check_inputs, instances
from serve.client import codec
from serve.models import preprocessing
from serve.models.compatibility import incompatibility
from serve.models.preprocessing import RawColumns

DEFAULT_TIMEOUT_S = 30.0
"""How long a call without a deadline may take."""

QUEUED_BATCHES = 32
"""Full batches that may wait per model."""

QUEUED_ROWS = 1024
"""Rows that may always wait: a light model finishes its small batches before the next burst of calls has been read."""


@dataclass(frozen=True)
class LoadedVersion:
    """One version of one model, ready for calls."""

    manifest: Manifest
    batcher: Batcher
    measured_here: bool = True
    probe: Callable[[], None] | None = None
    """Runs a golden input on every session, without the batcher; raises what a session raises."""
    preprocessing: RawColumns | None = None
    """Takes requests of raw columns, if the version has preprocessing code."""

    @cached_property
    def max_rows(self) -> int | None:
        """The most rows of a request; None if each request is an execution, whatever it holds."""
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
        """Check a request against the model's signature, and return how many rows of a batch it takes.

        Raises:
            InputError: The inputs do not fit the signature, or have more rows than one execution takes.
        """
        rows = check_inputs(self.manifest.signature, inputs)
        if self.max_rows is None:
            return 1
        if not 1 <= rows <= self.max_rows:
            raise InputError(f"the request has {rows} rows; wanted 1 to {self.max_rows}")
        return rows


@contextlib.asynccontextmanager
async def loaded(registry: Registry, manifest: Manifest, replicas: int = 1) -> AsyncIterator[LoadedVersion]:
    """Load one version: check digests, replay golden inputs, and run a batcher over as many sessions as were measured.

    `replicas` share the cores. Slow steps run outside the event loop, which may be answering calls.

    Raises:
        ArtifactError: A file is missing or damaged, cannot be opened here, or gives other answers than when it was measured.
    """
    signature = manifest.signature
    options = BatcherOptions(
        max_batch=signature.max_batch,
        max_queue_rows=queued_rows(signature),
        default_timeout_s=DEFAULT_TIMEOUT_S,
    )
    stack = contextlib.ExitStack()
    try:
        checked = await asyncio.to_thread(_open, registry, manifest, replicas, stack)
        async with Batcher(checked.sessions, signature, Curve(manifest.curve), options) as batcher:
            yield LoadedVersion(manifest, batcher, checked.measured_here, checked.probe, checked.preprocessing)
    finally:
        await asyncio.to_thread(stack.close)


def queued_rows(signature: Signature) -> int:
    """Rows that may wait for a model."""
    return max(QUEUED_BATCHES * signature.max_batch, QUEUED_ROWS)


def session_count(manifest: Manifest, replicas: int) -> int:
    """Sessions of one replica: those of the operating point for single requests, but no more than its share of the cores allows."""
    measured = 1 if manifest.online is None else manifest.online.instances
    return max(1, min(measured, cores() // (manifest.artifact.options.threads * replicas)))


class _Checked(NamedTuple):
    sessions: list[OnnxSession]
    measured_here: bool
    golden_inputs: Arrays
    preprocessing: RawColumns | None

    def probe(self) -> None:
        for session in dict.fromkeys(self.sessions):
            session.run(self.golden_inputs)


def _open(registry: Registry, manifest: Manifest, replicas: int, stack: contextlib.ExitStack) -> _Checked:
    """Sessions over checked files that have given the golden answers and run the largest batch; `stack` closes them."""
    here = describe()
    reason = incompatibility(manifest, here, replicas)
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
    return _Checked(sessions, registry.measured_on(manifest, here), inputs, columns)


def _warm_up(session: OnnxSession, manifest: Manifest, inputs: Arrays) -> None:
    """Run the largest batch once, so that no caller waits while its memory is allocated."""
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
