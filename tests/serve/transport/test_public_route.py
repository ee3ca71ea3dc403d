"""What a call meets on its way, where no server is needed to tell."""

import asyncio

import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2

from protos import open_inference_pb2 as pb
from serve.access.auth import Authenticator, AuthTokens, digest_of
from serve.models.hosting import Models
from serve.transport.public_route import PublicMethods
from serve.transport.servicer import Servicer

AUTHENTICATOR = Authenticator(lambda: AuthTokens.parse(f"ci {digest_of('s3cret').hex()} double", "tokens"))


class Replica(PublicMethods):
    def __init__(self) -> None:
        self.servicer = Servicer(Models(["double", "triple"]), AUTHENTICATOR)


class FromAProxy:
    """What Serve hands on in place of gRPC's context."""

    def __init__(self, token: str) -> None:
        self._token = token
        self.code: StatusCode | None = None
        self.details = ""

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self._token}")] if self._token else []

    def set_code(self, code: StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        assert not trailing_metadata


@pytest.mark.parametrize(
    ("method", "message", "token", "code"),
    [
        ("ServerReady", pb.ServerReadyRequest(), "", StatusCode.UNAUTHENTICATED),
        ("ServerReady", pb.ServerReadyRequest(), "wrong", StatusCode.UNAUTHENTICATED),
        ("ServerReady", pb.ServerReadyRequest(), "s3cret", None),
        ("ServerLive", pb.ServerLiveRequest(), "", None),
        ("Check", health_pb2.HealthCheckRequest(service="double"), "", None),
        ("ModelInfer", pb.ModelInferRequest(model_name="double"), "", StatusCode.UNAUTHENTICATED),
        ("ModelInfer", pb.ModelInferRequest(model_name="double"), "s3cret", StatusCode.UNAVAILABLE),
        ("ModelInfer", pb.ModelInferRequest(model_name="triple"), "s3cret", StatusCode.PERMISSION_DENIED),
        ("ModelMetadata", pb.ModelMetadataRequest(name="triple"), "s3cret", StatusCode.PERMISSION_DENIED),
        ("ModelReady", pb.ModelReadyRequest(name="triple"), "s3cret", StatusCode.PERMISSION_DENIED),
        ("ModelReady", pb.ModelReadyRequest(name="double"), "s3cret", None),
    ],
)
def test_a_call_that_comes_through_a_proxy_is_checked_in_the_replica(
    method: str, message: pb.ModelInferRequest, token: str, code: StatusCode | None
) -> None:
    replica, context = Replica(), FromAProxy(token)
    asyncio.run(getattr(replica, method)(message.SerializeToString(), grpc_context=context))
    assert context.code is code, context.details
    assert [ended for _, _, ended in replica.servicer.calls.ended] == ["OK" if code is None else code.name]
