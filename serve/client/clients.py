"""A small client of the Open Inference Protocol: dicts of numpy arrays in, dicts of numpy arrays out.

`Client` blocks, `AsyncClient` runs on an event loop; what they ask and how they read the answers is the same.
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
    """One answer: its arrays by output name, the version that gave it, and the server's own account of it."""

    outputs: dict[str, Array]
    model: str
    version: str
    parameters: dict[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class _Question(Generic[T]):
    """One call: what is sent where, how the answer is read, and whether it is worth asking again."""

    path: str
    request: Message
    answer: type[Message]
    read: Callable[[Any], T]
    retried: bool


class Client:
    """Calls one server; a context manager. Thread-safe.

    A call that nobody took, or that was told when to come again, is made again, up to `max_attempts` times and within its timeout;
    questions after the server's state are not. Every method raises grpc.RpcError, with its code and text, where the server refuses
    or cannot be reached.

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
            InputError: An array's dtype is none of the protocol's, or the answer is malformed.
        """
        return self._ask(_infer(model, inputs, outputs, version), timeout_s)

    def metadata(self, model: str, version: str = "") -> pb.ModelMetadataResponse:
        """What a model takes and gives, and its contract in `properties`."""
        return self._ask(_metadata(model, version))

    def ready(self, model: str | None = None) -> bool:
        """Whether a model, or every model of the server, can be called."""
        return self._ask(_ready(model))

    def serving(self, model: str = "") -> bool:
        """Whether grpc.health.v1 says SERVING for a model, or for the whole server."""
        return self._ask(_serving(model))

    def _ask(self, question: _Question[T], timeout_s: float | None = None) -> T:
        send = _method(self._channel, question)
        attempts = _attempts(question, self._timeout_s if timeout_s is None else timeout_s, self._max_attempts)
        while True:
            try:
                answer = send(question.request, timeout=attempts.remaining_s, metadata=self._metadata)
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error.code(), error.trailing_metadata())
                if pause_s is None:
                    raise
                time.sleep(pause_s)
            else:
                return question.read(answer)


class AsyncClient:
    """Calls one server from an event loop, the one that runs where it is made; otherwise as :class:`Client`."""

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
        return await self._ask(_infer(model, inputs, outputs, version), timeout_s)

    async def metadata(self, model: str, version: str = "") -> pb.ModelMetadataResponse:
        """As :meth:`Client.metadata`."""
        return await self._ask(_metadata(model, version))

    async def ready(self, model: str | None = None) -> bool:
        """As :meth:`Client.ready`."""
        return await self._ask(_ready(model))

    async def serving(self, model: str = "") -> bool:
        """As :meth:`Client.serving`."""
        return await self._ask(_serving(model))

    async def _ask(self, question: _Question[T], timeout_s: float | None = None) -> T:
        send = _method(self._channel, question)
        attempts = _attempts(question, self._timeout_s if timeout_s is None else timeout_s, self._max_attempts)
        while True:
            try:
                answer = await send(question.request, timeout=attempts.remaining_s, metadata=self._metadata)
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error.code(), error.trailing_metadata())
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
            else:
                return question.read(answer)


def _connection(server: str | Connection) -> Connection:
    return Connection(server) if isinstance(server, str) else server


def _method(channel: Any, question: _Question[Any]) -> Any:
    return channel.unary_unary(
        question.path,
        request_serializer=type(question.request).SerializeToString,
        response_deserializer=question.answer.FromString,
    )


def _attempts(question: _Question[Any], timeout_s: float, max_attempts: int) -> Attempts:
    return Attempts(timeout_s, max_attempts if question.retried else 1)


def _infer(model: str, inputs: Mapping[str, Array], outputs: Iterable[str], version: str) -> _Question[Prediction]:
    request = codec.write_request(model, inputs, outputs, version)
    return _Question(f"{_INFERENCE}ModelInfer", request, pb.ModelInferResponse, _prediction, retried=True)


def _metadata(model: str, version: str) -> _Question[pb.ModelMetadataResponse]:
    request = pb.ModelMetadataRequest(name=model, version=version)
    return _Question(
        f"{_INFERENCE}ModelMetadata", request, pb.ModelMetadataResponse, lambda answer: answer, retried=True
    )


def _ready(model: str | None) -> _Question[bool]:
    if model is None:
        asked: tuple[str, Message, type[Message]] = "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse
    else:
        asked = "ModelReady", pb.ModelReadyRequest(name=model), pb.ModelReadyResponse
    name, request, answer = asked
    return _Question(_INFERENCE + name, request, answer, lambda found: bool(found.ready), retried=False)


def _serving(model: str) -> _Question[bool]:
    request = health_pb2.HealthCheckRequest(service=model)
    answer = health_pb2.HealthCheckResponse
    return _Question(
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
