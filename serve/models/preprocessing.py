"""Requests with raw columns, which the version's own preprocessing code turns into the model's inputs."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from optimize.arrays import Arrays
from optimize.budgets import BATCH
from optimize.errors import InputError, SourceError
from optimize.manifest import Manifest, Signature
from optimize.registry import Registry
from optimize.runtime.session import check_inputs
from optimize.source import preprocess_package
from protos import open_inference_pb2 as pb
from serve import logs
from serve.client import codec

PARAMETER = "preprocess"
"""The request parameter that asks for preprocessing if raw columns and inputs have the same names."""


class RawColumns:
    """Turns raw columns of requests into the inputs of one version."""

    def __init__(self, signature: Signature, preprocess: Callable[[Arrays], Arrays], pool: ThreadPoolExecutor) -> None:
        self._signature = signature
        self._preprocess = preprocess
        self._pool = pool
        self._datatypes = {spec.name: codec.datatype_of(spec.dtype) for spec in signature.inputs}

    @property
    def described(self) -> dict[str, str]:
        """The datatype and shape of each column, for the model's metadata."""
        return {
            spec.name: f"{self._datatypes[spec.name]} {[-1 if axis == BATCH else axis for axis in spec.shape]}"
            for spec in self._signature.inputs
        }

    def carried_by(self, request: pb.ModelInferRequest, model_inputs: dict[str, str]) -> bool:
        """Whether a request has raw columns: its parameter says so, or it names columns and none of the model's inputs."""
        if PARAMETER in request.parameters:
            return bool(request.parameters[PARAMETER].bool_param)
        named = {tensor.name for tensor in request.inputs}
        return bool(named & self._datatypes.keys()) and not named & model_inputs.keys()

    async def inputs(self, request: pb.ModelInferRequest) -> Arrays:
        """The model's inputs for the columns of a request, computed outside the event loop.

        Raises:
            InputError: The columns do not fit, or the preprocessing fails on them.
        """
        columns = codec.read_inputs(request, self._datatypes)
        check_inputs(self._signature, columns)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._preprocess, columns)
        except SourceError as error:
            logs.event(
                "preprocess_failed",
                logging.WARNING,
                model=request.model_name,
                request_id=request.id or None,
                reason=str(error),
            )
            raise InputError(
                "the columns cannot be preprocessed; wanted columns such as those the model was measured with"
            ) from None


@contextmanager
def opened(registry: Registry, manifest: Manifest) -> Iterator[RawColumns | None]:
    """The preprocessing of a version, once it has reproduced recorded inputs; None if the version has none.

    Raises:
        ArtifactError: The code cannot be loaded here, or gives other inputs than when it was measured.
    """
    preprocessing = manifest.preprocessing
    if preprocessing is None:
        yield None
        return
    dims = {BATCH: manifest.signature.dims[BATCH]} if BATCH in manifest.signature.dims else {}
    signature = Signature(preprocessing.columns, (), dims)
    # One thread, since a user's code may not be thread-safe.
    with preprocess_package.restored(preprocessing, registry) as preprocess, ThreadPoolExecutor(1) as pool:
        yield RawColumns(signature, preprocess, pool)
