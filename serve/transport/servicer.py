# ruff: noqa: N802 - the methods carry the protocol's names
"""The protocol's methods, on parsed messages; they know neither the transport below nor Ray above.

Each raises what went wrong; `serve.transport.handlers` turns that into a status.
"""

import importlib.metadata
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2

from optimize.arrays import Array
from optimize.errors import InputError
from optimize.manifest import TensorSpec
from protos import open_inference_pb2 as pb
from serve.access.auth import Gate
from serve.client import codec
from serve.models.hosting import Hosted, Models
from serve.models.refused import Refused
from serve.monitoring.metrics import Calls

SERVER_NAME = "proveserve"
_US = 1e6
_PRIORITY_RANGE = range(2**16)


@dataclass(frozen=True, slots=True)
class Call:
    """What the transport knows of a call: its deadline on the monotonic clock, where it has one."""

    deadline: float | None = None


class Servicer:
    """GRPCInferenceService and grpc.health.v1.Health over one set of models, for those that `gate` admits."""

    def __init__(self, models: Models, gate: Gate | None = None) -> None:
        self.models = models
        self.gate = gate or Gate()
        self.calls = Calls()

    async def ServerLive(self, _: pb.ServerLiveRequest, __: Call) -> pb.ServerLiveResponse:
        """The process answers, so it is live."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: pb.ServerReadyRequest, __: Call) -> pb.ServerReadyResponse:
        """Whether every model can be called."""
        return pb.ServerReadyResponse(ready=self.models.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, _: Call) -> pb.ModelReadyResponse:
        """Whether one model can be called; one that is not here cannot."""
        try:
            self.models.find(request.name, request.version)
        except Refused:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self.models.health.is_serving(request.name))

    async def ServerMetadata(self, _: pb.ServerMetadataRequest, __: Call) -> pb.ServerMetadataResponse:
        """The server's name and version."""
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=importlib.metadata.version(SERVER_NAME))

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, _: Call) -> pb.ModelMetadataResponse:
        """What a model takes and gives, and the contract it is served under."""
        hosted = self.models.find(request.name, request.version)
        manifest = hosted.manifest
        return pb.ModelMetadataResponse(
            name=manifest.model,
            versions=[str(version) for version in self.models.versions(manifest.model)],
            platform="onnxruntime_onnx",
            inputs=[_tensor(spec) for spec in manifest.signature.inputs],
            outputs=[_tensor(spec) for spec in manifest.signature.outputs],
            properties=contract(hosted),
        )

    async def ModelInfer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """One prediction."""
        started = time.perf_counter()
        hosted, inputs = await self._taken(request)
        names = codec.requested(request, list(hosted.output_datatypes))
        rows = hosted.rows(inputs)
        read_s = time.perf_counter() - started
        deadline = _deadline(request, call)
        answer = await hosted.batcher.submit(inputs, rows, deadline=deadline, priority=_priority(request))
        started = time.perf_counter()
        response = pb.ModelInferResponse(
            model_name=hosted.manifest.model, model_version=str(hosted.manifest.version), id=request.id
        )
        codec.write_outputs(response, answer.outputs, names, hosted.output_datatypes)
        codec_s = read_s + time.perf_counter() - started
        self.calls.answered(hosted.manifest.model, answer.queue_s, codec_s)
        parameters = response.parameters
        parameters["queue_us"].int64_param = round(answer.queue_s * _US)
        parameters["execution_us"].int64_param = round(answer.execution_s * _US)
        parameters["codec_us"].int64_param = round(codec_s * _US)
        parameters["batch_rows"].int64_param = answer.batch_rows
        return response

    async def _taken(self, request: pb.ModelInferRequest) -> tuple[Hosted, dict[str, Array]]:
        """The version that a call names, and its inputs."""
        while True:
            hosted = self.models.find(request.model_name, request.model_version)
            if hosted.preprocessing is None or not hosted.preprocessing.carried_by(request, hosted.input_datatypes):
                return hosted, codec.read_inputs(request, hosted.input_datatypes)
            inputs = await hosted.preprocessing.inputs(request)
            if self.models.find(request.model_name, request.model_version) is hosted:
                return hosted, inputs  # else another version took its place meanwhile, with a preprocessing of its own

    async def Check(self, request: health_pb2.HealthCheckRequest, _: Call) -> health_pb2.HealthCheckResponse:
        """The serving status of a model, or of the server as a whole."""
        status = self.models.health.status(request.service)
        if status is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, "no model of that name")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The serving status now and after every change, until the server stops."""
        async for status in self.models.health.watch(request.service):
            yield health_pb2.HealthCheckResponse(status=status)


def contract(hosted: Hosted) -> dict[str, str]:
    """What a caller may rely on: the version, what it is made of, each budget with what was measured, and where that was."""
    manifest = hosted.manifest
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
        "measured": "here" if hosted.measured_here else "elsewhere",
        **{
            f"raw.{name}": shape
            for name, shape in (hosted.preprocessing.described if hosted.preprocessing else {}).items()
        },
        **verdicts,
    }


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name,
        datatype=codec.datatype_of(spec.dtype),
        shape=[axis if isinstance(axis, int) else -1 for axis in spec.shape],
    )


def _deadline(request: pb.ModelInferRequest, call: Call) -> float | None:
    """The sooner of the transport's deadline and the request's own `timeout`, in microseconds."""
    timeout_us = _integer(request, "timeout")
    if not timeout_us:
        return call.deadline
    asked = time.monotonic() + timeout_us / _US
    return asked if call.deadline is None else min(asked, call.deadline)


def _priority(request: pb.ModelInferRequest) -> int:
    priority = _integer(request, "priority")
    if priority not in _PRIORITY_RANGE:
        raise InputError(f"parameter 'priority' is {priority}; wanted 0, the most urgent, to {_PRIORITY_RANGE[-1]}")
    return priority


def _integer(request: pb.ModelInferRequest, name: str) -> int:
    """A request's whole-number parameter; 0 where it is not given."""
    if name not in request.parameters:
        return 0
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in {"int64_param", "uint64_param"} else -1
    if value < 0:
        raise InputError(f"parameter {name!r} is no whole number of 0 or more; wanted int64_param or uint64_param")
    return int(value)
