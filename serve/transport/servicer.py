# ruff: noqa: N802 - the methods carry the protocol's names
"""The protocol's methods on parsed messages, independent of the transport and of Ray.

Each takes a request and the deadline of its call on the monotonic clock, and raises what went wrong; `serve.transport.call` turns that
into a status.
"""

import importlib.metadata
import time
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc
from grpc_health.v1 import health_pb2

from optimize.arrays import Array
from optimize.errors import InputError
from optimize.manifest import TensorSpec
from protos import open_inference_pb2 as pb
from serve.access.auth import Authenticator
from serve.client import codec
from serve.models.hosting import Models
from serve.models.loading import LoadedVersion
from serve.models.refused import Refused
from serve.monitoring.metrics import CallCounters

SERVER_NAME = "proveserve"
_US = 1e6
_PRIORITY_RANGE = range(2**16)

Deadline: TypeAlias = float | None


class Servicer:
    """GRPCInferenceService and grpc.health.v1.Health over one set of models, for callers that `authenticator` knows."""

    def __init__(self, models: Models, authenticator: Authenticator | None = None) -> None:
        self.models = models
        self.authenticator = authenticator or Authenticator()
        self.calls = CallCounters()

    async def ServerLive(self, _: pb.ServerLiveRequest, __: Deadline) -> pb.ServerLiveResponse:
        """A process that answers is live."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: pb.ServerReadyRequest, __: Deadline) -> pb.ServerReadyResponse:
        """Whether every model can be called."""
        return pb.ServerReadyResponse(ready=self.models.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, _: Deadline) -> pb.ModelReadyResponse:
        """Whether one model can be called; an unknown one cannot."""
        try:
            self.models.find(request.name, request.version)
        except Refused:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self.models.health.is_serving(request.name))

    async def ServerMetadata(self, _: pb.ServerMetadataRequest, __: Deadline) -> pb.ServerMetadataResponse:
        """The server's name and version."""
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=importlib.metadata.version(SERVER_NAME))

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, _: Deadline) -> pb.ModelMetadataResponse:
        """The inputs and outputs of a model, and its contract."""
        version = self.models.find(request.name, request.version)
        manifest = version.manifest
        return pb.ModelMetadataResponse(
            name=manifest.model,
            versions=[str(version) for version in self.models.versions(manifest.model)],
            platform="onnxruntime_onnx",
            inputs=[_tensor(spec) for spec in manifest.signature.inputs],
            outputs=[_tensor(spec) for spec in manifest.signature.outputs],
            properties=contract(version),
        )

    async def ModelInfer(self, request: pb.ModelInferRequest, deadline: Deadline) -> pb.ModelInferResponse:
        """One prediction."""
        started = time.perf_counter()
        version, inputs = await self._read(request)
        names = codec.requested_outputs(request, list(version.output_datatypes))
        rows = version.rows(inputs)
        read_s = time.perf_counter() - started
        answer = await version.batcher.submit(
            inputs, rows, deadline=_sooner(request, deadline), priority=_priority(request)
        )
        started = time.perf_counter()
        response = pb.ModelInferResponse(
            model_name=version.manifest.model, model_version=str(version.manifest.version), id=request.id
        )
        codec.write_outputs(response, answer.outputs, names, version.output_datatypes)
        codec_s = read_s + time.perf_counter() - started
        self.calls.answered(version.manifest.model, answer.queue_s, codec_s)
        parameters = response.parameters
        parameters["queue_us"].int64_param = round(answer.queue_s * _US)
        parameters["execution_us"].int64_param = round(answer.execution_s * _US)
        parameters["codec_us"].int64_param = round(codec_s * _US)
        parameters["batch_rows"].int64_param = answer.batch_rows
        return response

    async def _read(self, request: pb.ModelInferRequest) -> tuple[LoadedVersion, dict[str, Array]]:
        """The version that a call names, and its inputs."""
        while True:
            version = self.models.find(request.model_name, request.model_version)
            if version.preprocessing is None or not version.preprocessing.carried_by(request, version.input_datatypes):
                return version, codec.read_inputs(request, version.input_datatypes)
            inputs = await version.preprocessing.inputs(request)
            if self.models.find(request.model_name, request.model_version) is version:
                return version, inputs  # otherwise another version replaced it, whose preprocessing may differ

    async def Check(self, request: health_pb2.HealthCheckRequest, _: Deadline) -> health_pb2.HealthCheckResponse:
        """The serving status of a model, or of the server as a whole."""
        status = self.models.health.status(request.service)
        if status is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, "no model of that name")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _: Deadline
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The serving status now and after every change, until the server stops."""
        async for status in self.models.health.watch(request.service):
            yield health_pb2.HealthCheckResponse(status=status)


def contract(version: LoadedVersion) -> dict[str, str]:
    """What a caller may rely on: the version and its file, each budget with what was measured, and where it was measured."""
    manifest = version.manifest
    verdicts = {
        f"verdict.{verdict.budget}": f"{verdict.verdict} limit={verdict.limit:g}"
        + (f" observed={verdict.observed:g}" if verdict.observed is not None else "")
        for verdict in manifest.verdicts
    }
    return {
        "version": str(manifest.version),
        "candidate": manifest.candidate,
        "digest": manifest.digest,
        "max_batch": str(manifest.signature.max_batch),
        "measured": "here" if version.measured_here else "elsewhere",
        **{
            f"raw.{name}": shape
            for name, shape in (version.preprocessing.described if version.preprocessing else {}).items()
        },
        **verdicts,
    }


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name,
        datatype=codec.datatype_of(spec.dtype),
        shape=[axis if isinstance(axis, int) else -1 for axis in spec.shape],
    )


def _sooner(request: pb.ModelInferRequest, deadline: Deadline) -> Deadline:
    """The sooner of the call's deadline and the end of the request's own `timeout`, in microseconds."""
    timeout_us = _integer(request, "timeout")
    if not timeout_us:
        return deadline
    timeout_end = time.monotonic() + timeout_us / _US
    return timeout_end if deadline is None else min(timeout_end, deadline)


def _priority(request: pb.ModelInferRequest) -> int:
    priority = _integer(request, "priority")
    if priority not in _PRIORITY_RANGE:
        raise InputError(f"parameter 'priority' is {priority}; wanted 0 (most urgent) to {_PRIORITY_RANGE[-1]}")
    return priority


def _integer(request: pb.ModelInferRequest, name: str) -> int:
    """A whole-number parameter of a request; 0 if it is not given."""
    if name not in request.parameters:
        return 0
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in {"int64_param", "uint64_param"} else -1
    if value < 0:
        raise InputError(f"parameter {name!r} is not a whole number of 0 or more; wanted int64_param or uint64_param")
    return int(value)
