"""Questions to the service before the load: whether it answers, what the model takes, and whether it accepts our requests."""

import re

import grpc

from optimize.errors import ProveserveError, UserError
from protos import open_inference_pb2 as pb
from serve.client import Client
from serve.client.connection import Connection

INFER = "/inference.GRPCInferenceService/ModelInfer"
CHANNEL_OPTIONS = (
    ("grpc.enable_retries", 0),  # a call that gRPC retried by itself would hide an error
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one address share a connection
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)
_ASK_TIMEOUT_S = 5.0
_TARGET = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})")
_MAX_PORT = 65535


def check_target(target: str) -> str:
    """The address, or several separated by commas, as `optimize serve` prints for its replicas, if they are valid.

    Raises:
        UserError: One is not of the form HOST:PORT.
    """
    for address in target.split(","):
        found = _TARGET.fullmatch(address)
        if found is None or not 1 <= int(found[2]) <= _MAX_PORT:
            raise UserError(f"{address!r} is not an address; wanted HOST:PORT, such as 127.0.0.1:9000 or [::1]:9000")
    return target


def describe(connection: Connection, model: str) -> pb.ModelMetadataResponse:
    """The model's inputs and outputs, as the service describes them.

    Raises:
        ProveserveError: No service answers there, or it does not serve the model, or not to us.
    """
    with Client(connection, timeout_s=_ASK_TIMEOUT_S, max_attempts=1) as client:
        try:
            return client.metadata(model)
        except grpc.RpcError as error:
            raise _unusable(connection.address, model, error) from None


def try_one(connection: Connection, payload: bytes, origin: str, timeout_s: float) -> None:
    """Send one request, so that requests which the model refuses are the caller's error and not a failed load test.

    Any other failure is left for the load test to count. `origin` names the source of the request.

    Raises:
        UserError: The service refused the request as malformed.
    """
    with connection.channel(CHANNEL_OPTIONS) as channel:
        try:
            channel.unary_unary(INFER)(payload, timeout=timeout_s, metadata=connection.metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise UserError(
                    f"the service refused the first request, made from {origin}: {error.details()}; fix the budgets"
                    " file's inputs, dims or latency.batch, or give rows that the model takes with --input"
                ) from None


def _unusable(target: str, model: str, error: grpc.RpcError) -> ProveserveError:
    code = error.code()
    match code:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return ProveserveError(
                f"no service answers at {target} ({code.name}); start one with `optimize serve`, or check HOST:PORT and"
                " whether it wants TLS"
            )
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return UserError(
                f"the service at {target} does not let us ask for model {model!r}: {error.details()}; give a token for it with"
                " --token-file"
            )
        case grpc.StatusCode.NOT_FOUND:
            return ProveserveError(
                f"the service at {target} has no model {model!r}; publish it with `optimize export` and serve it"
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return ProveserveError(
                f"the service at {target} does not speak the Open Inference Protocol over gRPC; check HOST:PORT"
            )
    return ProveserveError(f"the service at {target} does not describe model {model!r}: {code.name}: {error.details()}")
