"""Small clients of the Open Inference Protocol: dicts of numpy arrays in, dicts of numpy arrays out.

`Client` blocks, `AsyncClient` runs on an event loop; they share requests and the reading of answers.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from optimize.arrays import Array
from protos import open_inference_pb2 as pb
from serve.client import codec
from serve.client.connection import Connection
from serve.client.retry import MAX_ATTEMPTS, Attempts

DEFAULT_TIMEOUT_S = 30.0
MAX_MESSAGE_BYTES = 64 << 20

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
_INFERENCE = "/inference.GRPCInferenceService/"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer: its arrays by output name, the version that gave it, and what the server reports about it."""

    outputs: dict[str, Array]
    model: str
    version: str
    parameters: dict[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class _Request(Generic[T]):
    """One call: the method, the message, how to read the answer, and whether to retry."""

    path: str
    message: Message
    answer: type[Message]
    read: Callable[[Any], T]
    retried: bool


class Client:
    """Calls one server; a context manager. Thread-safe.

    A call is retried if no server took it, or if the server said when to retry, up to `max_attempts` times and within its
    timeout. Calls about the state of the server are not retried. Every method raises grpc.RpcError, with a code and a text, if
    the server refuses the call or cannot be reached.

    Raises:
        UserError: The connection's files cannot be read.
    """

    def __init__(
        self,
        server: str | Connection,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        connection = _connection(server)
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._metadata = connection.metadata
        self._channel = connection.channel(_OPTIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Iterable[str] = (),
        version: str = "",
        timeout_s: float | None = None,
    ) -> Prediction:
        """One prediction, within `timeout_s`: all outputs, or those named.

        Raises:
            InputError: The protocol has no such dtype, or the answer is malformed.
        """
        return self._call(_infer(model, inputs, outputs, version), timeout_s)

    def metadata(self, model: str, version: str = "") -> pb.ModelMetadataResponse:
        """The inputs and outputs of a model, and its contract in `properties`."""
        return self._call(_metadata(model, version))

    def ready(self, model: str | None = None) -> bool:
        """Whether a model, or every model of the server, can be called."""
        return self._call(_ready(model))

    def serving(self, model: str = "") -> bool:
        """Whether grpc.health.v1 says SERVING for a model, or for the whole server."""
        return self._call(_serving(model))

    def _call(self, request: _Request[T], timeout_s: float | None = None) -> T:
        send = _method(self._channel, request)
        attempts = _attempts(request, self._timeout_s if timeout_s is None else timeout_s, self._max_attempts)
        while True:
            try:
                answer = send(request.message, timeout=attempts.remaining_s, metadata=self._metadata)
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error.code(), error.trailing_metadata())
                if pause_s is None:
                    raise
                time.sleep(pause_s)
            else:
                return request.read(answer)


class AsyncClient:
    """Like :class:`Client`, for the event loop on which it is created."""

    def __init__(
        self,
        server: str | Connection,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        connection = _connection(server)
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._metadata = connection.metadata
        self._channel = connection.aio_channel(_OPTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._channel.close()

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Iterable[str] = (),
        version: str = "",
        timeout_s: float | None = None,
    ) -> Prediction:
        """As :meth:`Client.infer`."""
        return await self._call(_infer(model, inputs, outputs, version), timeout_s)

    async def metadata(self, model: str, version: str = "") -> pb.ModelMetadataResponse:
        """As :meth:`Client.metadata`."""
        return await self._call(_metadata(model, version))

    async def ready(self, model: str | None = None) -> bool:
        """As :meth:`Client.ready`."""
        return await self._call(_ready(model))

    async def serving(self, model: str = "") -> bool:
        """As :meth:`Client.serving`."""
        return await self._call(_serving(model))

    async def _call(self, request: _Request[T], timeout_s: float | None = None) -> T:
        send = _method(self._channel, request)
        attempts = _attempts(request, self._timeout_s if timeout_s is None else timeout_s, self._max_attempts)
        while True:
            try:
                answer = await send(request.message, timeout=attempts.remaining_s, metadata=self._metadata)
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error.code(), error.trailing_metadata())
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
            else:
                return request.read(answer)


def _connection(server: str | Connection) -> Connection:
    return Connection(server) if isinstance(server, str) else server


def _method(channel: Any, request: _Request[Any]) -> Any:
    return channel.unary_unary(
        request.path,
        request_serializer=type(request.message).SerializeToString,
        response_deserializer=request.answer.FromString,
    )


def _attempts(request: _Request[Any], timeout_s: float, max_attempts: int) -> Attempts:
    return Attempts(timeout_s, max_attempts if request.retried else 1)


def _infer(model: str, inputs: Mapping[str, Array], outputs: Iterable[str], version: str) -> _Request[Prediction]:
    request = codec.write_request(model, inputs, outputs, version)
    return _Request(f"{_INFERENCE}ModelInfer", request, pb.ModelInferResponse, _prediction, retried=True)


def _metadata(model: str, version: str) -> _Request[pb.ModelMetadataResponse]:
    request = pb.ModelMetadataRequest(name=model, version=version)
    return _Request(
        f"{_INFERENCE}ModelMetadata", request, pb.ModelMetadataResponse, lambda answer: answer, retried=True
    )


def _ready(model: str | None) -> _Request[bool]:
    if model is None:
        asked: tuple[str, Message, type[Message]] = "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse
    else:
        asked = "ModelReady", pb.ModelReadyRequest(name=model), pb.ModelReadyResponse
    name, request, answer = asked
    return _Request(_INFERENCE + name, request, answer, lambda found: bool(found.ready), retried=False)


def _serving(model: str) -> _Request[bool]:
    request = health_pb2.HealthCheckRequest(service=model)
    answer = health_pb2.HealthCheckResponse
    return _Request(
        "/grpc.health.v1.Health/Check",
        request,
        answer,
        lambda found: bool(found.status == answer.SERVING),
        retried=False,
    )


def _prediction(response: pb.ModelInferResponse) -> Prediction:
    return Prediction(
        outputs=codec.read_outputs(response),
        model=response.model_name,
        version=response.model_version,
        parameters={name: _value(parameter) for name, parameter in response.parameters.items()},
    )


def _value(parameter: pb.InferParameter) -> Any:
    return getattr(parameter, parameter.WhichOneof("parameter_choice") or "string_param")
