"""A small client of the Open Inference Protocol: dicts of numpy arrays in, dicts of numpy arrays out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc
from serve import codec
from serve.codec import Array

DEFAULT_TIMEOUT_S = 30.0
MAX_MESSAGE_BYTES = 64 << 20

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer: its arrays by output name, the version that gave it, and the server's own account of it."""

    outputs: dict[str, Array]
    model: str
    version: str
    parameters: dict[str, bool | int | float | str]


class Client:
    """Calls one server; a context manager. Thread-safe.

    Every method raises grpc.RpcError, with its code and text, where the server refuses or cannot be reached.
    """

    def __init__(self, address: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call] # generated
        self._health = health_pb2_grpc.HealthStub(self._channel)

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
        request = codec.write_request(model, inputs, outputs, version)
        response = self._inference.ModelInfer(request, timeout=self._timeout_s if timeout_s is None else timeout_s)
        return Prediction(
            outputs=codec.read_outputs(response),
            model=response.model_name,
            version=response.model_version,
            parameters={name: _value(parameter) for name, parameter in response.parameters.items()},
        )

    def metadata(self, model: str, version: str = "") -> pb.ModelMetadataResponse:
        """What a model takes and gives, and its contract in `properties`."""
        request = pb.ModelMetadataRequest(name=model, version=version)
        response: pb.ModelMetadataResponse = self._inference.ModelMetadata(request, timeout=self._timeout_s)
        return response

    def ready(self, model: str | None = None) -> bool:
        """Whether a model, or every model of the server, can be called."""
        if model is None:
            return bool(self._inference.ServerReady(pb.ServerReadyRequest(), timeout=self._timeout_s).ready)
        return bool(self._inference.ModelReady(pb.ModelReadyRequest(name=model), timeout=self._timeout_s).ready)

    def serving(self, model: str = "") -> bool:
        """Whether grpc.health.v1 says SERVING for a model, or for the whole server."""
        request = health_pb2.HealthCheckRequest(service=model)
        response = self._health.Check(request, timeout=self._timeout_s)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def _value(parameter: pb.InferParameter) -> Any:
    return getattr(parameter, parameter.WhichOneof("parameter_choice") or "string_param")
