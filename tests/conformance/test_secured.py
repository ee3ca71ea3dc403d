"""A service that asks for a client certificate and a token: a bare server, on both routes of Ray Serve, and behind HAProxy."""

import http.client
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf.message import Message
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from optimize.registry import Registry
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc
from serve.access import auth_tokens, tls, watched_files
from serve.access.auth import Authenticator
from serve.access.tls import TlsFiles
from serve.client import codec
from serve.models.hosting import Models
from tests.certificates import Certificates, issue
from tests.conformance.conftest import SERVED
from tests.published import identity, publish, scale
from tests.serving import Served, bare, served, until

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 20.0
X = np.arange(8, dtype=np.float32).reshape(2, 4)
INFERENCE = "/inference.GRPCInferenceService/"
OPEN = ("ServerLive", "Check", "Watch")
REFLECTION = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
SERVES_OWN = ("/ray.serve.RayServeAPIService/ListApplications", "/ray.serve.RayServeAPIService/Healthz")

Metadata = tuple[tuple[str, str], ...]


@dataclass
class Secured:
    """A running service: its address, the files it was started with, and a channel of a client that it knows."""

    address: str
    certificates: Certificates
    tokens_file: Path
    token: str
    limited_token: str
    channel: grpc.Channel
    service: Served | None

    @property
    def stub(self) -> open_inference_pb2_grpc.GRPCInferenceServiceStub:
        return open_inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(self, model: str = "identity", token: str | None = None) -> StatusCode:
        """The code that a prediction ends with; by default with a token for everything."""
        return self.code(
            f"{INFERENCE}ModelInfer",
            bearer(self.token if token is None else token),
            codec.write_request(model, {"x": X}),
        )

    def code(self, path: str, metadata: Metadata = (), message: Message | None = None) -> StatusCode:
        sent = b"" if message is None else message.SerializeToString()
        try:
            self.channel.unary_unary(path)(sent, metadata=metadata, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code()
        return StatusCode.OK


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),) if token else ()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    folder = tmp_path_factory.mktemp("models")
    publish(root, "identity", identity(), folder)
    publish(root, "double", scale(2.0), folder)
    return root


@pytest.fixture(scope="module", params=["bare", *SERVED])
def running(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    certificates = issue(folder)
    path = folder / "tokens"
    token, limited = auth_tokens.add(path, "all", []), auth_tokens.add(path, "limited", ["double"])
    files = TlsFiles(certificates.server, certificates.server_key, certificates.ca)
    registry = Registry(models)

    async def fill(hosted: Models) -> None:
        for name in registry.models():
            await hosted.load(registry, registry.load(name))

    if request.param == "bare":
        authenticator = Authenticator(auth_tokens.AuthTokensFile(path).current)
        started = bare(registry.models(), fill, authenticator, tls.server_credentials(files))
    else:
        options = {"--tls-cert": files.cert, "--tls-key": files.key, "--client-ca": files.client_ca, "--tokens": path}
        arguments = [str(word) for option in options.items() for word in option]
        started = served(models, *SERVED[request.param], *arguments)
    with started as service, grpc.secure_channel(service.address, certificates.channel_credentials()) as channel:
        of_ray = service if isinstance(service, Served) else None
        yield Secured(service.address, certificates, path, token, limited, channel, of_ray)


@pytest.fixture
def secured(running: Secured) -> Iterator[Secured]:
    """The service; after each case one good call must succeed."""
    yield running
    assert running.infer() is StatusCode.OK


def test_a_token_opens_its_models_alone(secured: Secured) -> None:
    assert secured.infer("double", secured.limited_token) is StatusCode.OK
    for path, message in (
        ("ModelInfer", codec.write_request("identity", {"x": X})),
        ("ModelMetadata", pb.ModelMetadataRequest(name="identity")),
        ("ModelReady", pb.ModelReadyRequest(name="identity")),
        ("ModelInfer", codec.write_request("nobody", {"x": X})),
    ):
        assert secured.code(INFERENCE + path, bearer(secured.limited_token), message) is StatusCode.PERMISSION_DENIED
    for path in ("ServerReady", "ServerMetadata"):
        assert secured.code(INFERENCE + path, bearer(secured.limited_token)) is StatusCode.OK


@pytest.mark.parametrize("token", ["", "wrong"])
def test_without_a_known_token_only_health_and_live_answer(secured: Secured, token: str) -> None:
    services = (
        pb.DESCRIPTOR.services_by_name["GRPCInferenceService"],
        health_pb2.DESCRIPTOR.services_by_name["Health"],
    )
    for service in services:
        for method in service.methods:
            if method.name not in OPEN:
                path = f"/{service.full_name}/{method.name}"
                assert secured.code(path, bearer(token)) is StatusCode.UNAUTHENTICATED, path
    for path in REFLECTION:
        assert secured.code(path, bearer(token)) is StatusCode.UNAUTHENTICATED
    assert secured.stub.ServerLive(pb.ServerLiveRequest(), metadata=bearer(token), timeout=TIMEOUT_S).live
    health = health_pb2_grpc.HealthStub(secured.channel)
    request = health_pb2.HealthCheckRequest(service="double")
    assert (
        health.Check(request, metadata=bearer(token), timeout=TIMEOUT_S).status
        == health_pb2.HealthCheckResponse.SERVING
    )
    watch = health.Watch(request, metadata=bearer(token), timeout=TIMEOUT_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_a_stock_tritonclient_calls_with_a_certificate_and_a_token(secured: Secured) -> None:
    files = secured.certificates
    run = subprocess.run(
        [
            *(sys.executable, "-m", "tests.e2e.triton_secured", secured.address, "double"),
            *(str(path) for path in (files.ca, files.client, files.client_key)),
        ],
        cwd=REPOSITORY,
        input=secured.limited_token,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [(2 * X).tolist(), "StatusCode.UNAUTHENTICATED"]


def test_a_refusal_comes_before_the_message(secured: Secured) -> None:
    """Who may not call cannot make the server hold, or wait for, a message."""
    call = secured.channel.stream_unary(f"{INFERENCE}ModelInfer").future(never_comes(), timeout=TIMEOUT_S)
    assert call.code() is StatusCode.UNAUTHENTICATED


def never_comes() -> Iterator[bytes]:
    time.sleep(5)
    yield b""


def test_a_refusal_tells_what_to_do_and_nothing_else(secured: Secured) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        secured.stub.ServerReady(pb.ServerReadyRequest(), metadata=bearer("wrong"), timeout=TIMEOUT_S)
    assert "authorization: Bearer TOKEN" in caught.value.details()
    assert "wrong" not in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        secured.stub.ModelInfer(
            codec.write_request("identity", {"x": X}), metadata=bearer(secured.limited_token), timeout=TIMEOUT_S
        )
    assert caught.value.details() == "the token has no right to this model"


def test_metadata_that_serve_would_read_changes_nothing(secured: Secured) -> None:
    message = codec.write_request("identity", {"x": X})
    for extra in (("application", "other"), ("multiplexed_model_id", "other"), ("request_id", "mine")):
        assert secured.code(f"{INFERENCE}ModelInfer", (*bearer(secured.token), extra), message) is StatusCode.OK


def test_serves_own_service_is_closed(secured: Secured) -> None:
    for path in SERVES_OWN:
        assert secured.code(path) is StatusCode.UNIMPLEMENTED
        assert secured.code(path, bearer(secured.token)) is StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", REFLECTION)
def test_reflection_describes_the_service(secured: Secured, path: str) -> None:
    ask = reflection_pb2.ServerReflectionRequest
    questions = [
        ask(list_services=""),
        ask(file_containing_symbol="inference.GRPCInferenceService"),
        ask(file_by_filename="no.proto"),
    ]
    answers = secured.channel.stream_stream(
        path,
        request_serializer=ask.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(iter(questions), metadata=bearer(secured.token), timeout=TIMEOUT_S)
    listed, described, unknown = answers
    names = [service.name for service in listed.list_services_response.service]
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(names)
    assert not any("ray" in name for name in names)
    assert described.file_descriptor_response.file_descriptor_proto
    assert unknown.error_response.error_code == StatusCode.NOT_FOUND.value[0]


def test_garbage_to_reflection_is_refused_without_a_class_name(secured: Secured) -> None:
    call = secured.channel.unary_unary(REFLECTION[0])
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", metadata=bearer(secured.token), timeout=TIMEOUT_S)
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert "Error" not in caught.value.details()


def test_a_changed_tokens_file_counts(secured: Secured) -> None:
    before = secured.tokens_file.read_text()
    fresh = auth_tokens.add(secured.tokens_file, "fresh", ["identity"])
    until(lambda: secured.infer("identity", fresh) is StatusCode.OK)
    secured.tokens_file.write_text(before)
    until(lambda: secured.infer("identity", fresh) is StatusCode.UNAUTHENTICATED)
    secured.tokens_file.write_text("broken\n")
    try:
        time.sleep(watched_files.CHECK_PERIOD_S)
        assert secured.infer() is StatusCode.OK
    finally:
        secured.tokens_file.write_text(before)


def test_a_renewed_certificate_counts_for_new_connections(
    secured: Secured, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if "haproxy" in request.node.callspec.id:
        pytest.skip("HAProxy reads its files when it starts")
    ours, other = secured.certificates, issue(tmp_path / "other")
    held = {path: path.read_bytes() for path in (ours.server, ours.server_key)}

    def shows_a_certificate_of(authority: Path) -> bool:
        known = ours.client_key.read_bytes(), ours.client.read_bytes()
        credentials = grpc.ssl_channel_credentials(authority.read_bytes(), *known)
        with grpc.secure_channel(secured.address, credentials) as channel:
            try:
                channel.unary_unary(f"{INFERENCE}ServerLive")(b"", timeout=5)
            except grpc.RpcError:
                return False
            return True

    assert shows_a_certificate_of(ours.ca)
    assert secured.infer() is StatusCode.OK
    ours.server.write_bytes(other.server.read_bytes())
    ours.server_key.write_bytes(other.server_key.read_bytes())
    try:
        until(lambda: shows_a_certificate_of(other.ca))
        assert secured.infer() is StatusCode.OK, "the connection of before goes on"
    finally:
        for path, content in held.items():
            path.write_bytes(content)
    until(lambda: shows_a_certificate_of(ours.ca))


@pytest.mark.parametrize("how", ["plaintext", "wrong CA", "no certificate", "another CA's certificate"])
def test_who_is_not_let_in_gets_no_connection(secured: Secured, tmp_path: Path, how: str) -> None:
    other = issue(tmp_path / "other")
    ours = secured.certificates
    credentials = {
        "plaintext": None,
        "wrong CA": other.channel_credentials(),
        "no certificate": ours.channel_credentials(client=False),
        "another CA's certificate": grpc.ssl_channel_credentials(
            ours.ca.read_bytes(), other.client_key.read_bytes(), other.client.read_bytes()
        ),
    }[how]
    channel = (
        grpc.secure_channel(secured.address, credentials) if credentials else grpc.insecure_channel(secured.address)
    )
    with channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"{INFERENCE}ServerLive")(b"", timeout=5)
    assert caught.value.code() in {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}


def test_old_tls_is_refused(secured: Secured) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(secured.certificates.ca)
    context.load_cert_chain(secured.certificates.client, secured.certificates.client_key)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # lets this side offer it
    host, port = secured.address.rsplit(":", 1)

    def connect() -> None:
        with (
            socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as link,
            context.wrap_socket(link, server_hostname=host),
        ):
            pass

    connect()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect()


def test_no_other_door_lets_a_call_in(secured: Secured) -> None:
    """Every listening socket of the service is called, in the clear, without a certificate and without a token."""
    if secured.service is None:
        pytest.skip("one socket, which the other cases call")
    ports = {
        (connection.laddr.ip, connection.laddr.port)
        for process in secured.service.family()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ports
    for host, port in sorted(ports):
        where = "127.0.0.1" if ipaddress.ip_address(host).is_unspecified else host.removeprefix("::ffff:")
        with grpc.insecure_channel(f"[{where}]:{port}" if ":" in where else f"{where}:{port}") as channel:
            for path in (f"{INFERENCE}ModelInfer", f"{INFERENCE}ServerMetadata", *SERVES_OWN):
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(path)(b"", timeout=3)
        assert not takes_a_job(where, port)


def takes_a_job(host: str, port: int) -> bool:
    """Whether Ray's agent listens there, and runs what anybody sends it."""
    connection = http.client.HTTPConnection(host, port, timeout=3)
    try:
        connection.request("POST", "/api/job_agent/jobs/", json.dumps({"entrypoint": "true"}))
        return connection.getresponse().status < 300
    except (http.client.HTTPException, OSError):
        return False
    finally:
        connection.close()


def test_a_token_is_never_logged(secured: Secured) -> None:
    if secured.service is None:
        pytest.skip("has no log of its own")
    assert secured.infer("identity", secured.limited_token) is StatusCode.PERMISSION_DENIED
    assert secured.infer("nobody") is StatusCode.NOT_FOUND
    said = json.dumps(secured.service.output)
    for token in (secured.token, secured.limited_token):
        assert token not in said
