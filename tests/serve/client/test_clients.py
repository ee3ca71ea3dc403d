import asyncio
import contextlib
import inspect
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import StatusCode

from optimize.registry import Registry
from protos import open_inference_pb2 as pb
from serve.access import tls
from serve.access.auth import Authenticator, AuthTokens, digest_of
from serve.access.tls import TlsFiles
from serve.client import AsyncClient, Client, codec
from serve.client.connection import Connection
from serve.metadata_keys import PUSHBACK_KEY
from serve.models.hosting import Models
from tests.certificates import issue
from tests.conformance.models import pair
from tests.published import identity, publish
from tests.serving import bare

X = np.arange(8, dtype=np.float32).reshape(2, 4)
TOKEN = "for-tests"

Ask = Callable[..., Any]


def blocking(server: str | Connection, method: str, *args: Any, timeout_s: float = 20.0, **kwargs: Any) -> Any:
    with Client(server, timeout_s=timeout_s) as client:
        return getattr(client, method)(*args, **kwargs)


def on_a_loop(server: str | Connection, method: str, *args: Any, timeout_s: float = 20.0, **kwargs: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(server, timeout_s=timeout_s) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(ask())


@pytest.fixture(params=[blocking, on_a_loop])
def ask(request: pytest.FixtureRequest) -> Ask:
    """One question by either client."""
    return request.param


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("models")
    for name, model in (("identity", identity()), ("pair", pair())):
        publish(folder / "registry", name, model, folder)
    return Registry(folder / "registry")


@contextlib.contextmanager
def running(registry: Registry, **options: Any) -> Iterator[str]:
    async def fill(models: Models) -> None:
        await asyncio.gather(*(models.load(registry, registry.load(name)) for name in registry.models()))

    with bare(registry.models(), fill, **options) as server:
        yield server.address


@pytest.fixture(scope="module")
def address(registry: Registry) -> Iterator[str]:
    with running(registry) as found:
        yield found


def test_arrays_in_arrays_out(ask: Ask, address: str) -> None:
    prediction = ask(address, "infer", "pair", {"x": X})
    assert list(prediction.outputs) == ["same", "twice"]
    np.testing.assert_array_equal(prediction.outputs["twice"], 2 * X)
    assert (prediction.model, prediction.version) == ("pair", "1")
    assert prediction.parameters["batch_rows"] == 2


def test_only_the_asked_outputs_of_the_asked_version(ask: Ask, address: str) -> None:
    assert list(ask(address, "infer", "pair", {"x": X}, outputs=["twice"], version="1").outputs) == ["twice"]
    with pytest.raises(grpc.RpcError) as caught:
        ask(address, "infer", "pair", {"x": X}, version="2")
    assert caught.value.code() is StatusCode.NOT_FOUND


def test_state_and_metadata(ask: Ask, address: str) -> None:
    assert ask(address, "ready")
    assert ask(address, "ready", "pair")
    assert not ask(address, "ready", "nobody")
    assert ask(address, "serving")
    assert ask(address, "serving", "pair")
    assert ask(address, "metadata", "pair").properties["max_batch"] == "8"


def test_no_server_listens(ask: Ask) -> None:
    for method, arguments in (("ready", ()), ("infer", ("pair", {"x": X}))):
        with pytest.raises(grpc.RpcError) as caught:
            ask("127.0.0.1:1", method, *arguments, timeout_s=2)
        assert caught.value.code() in {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}


def test_a_web_proxy_is_not_used(ask: Ask, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask(address, "ready")


def test_both_clients_have_the_same_methods() -> None:
    def signatures(client: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(member)
            for name, member in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }

    assert signatures(Client) == signatures(AsyncClient)


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual tls"])
def test_tls_and_a_token(ask: Ask, registry: Registry, tmp_path: Path, mutual: bool) -> None:
    ours = issue(tmp_path)
    files = TlsFiles(ours.server, ours.server_key, ours.ca if mutual else None)
    authenticator = Authenticator(lambda: AuthTokens.parse(f"test {digest_of(TOKEN).hex()} pair", "tokens"))
    with running(registry, authenticator=authenticator, credentials=tls.server_credentials(files)) as address:
        known = Connection(
            address,
            ca=ours.ca,
            cert=ours.client if mutual else None,
            key=ours.client_key if mutual else None,
            token=TOKEN,
        )
        np.testing.assert_array_equal(ask(known, "infer", "pair", {"x": X}).outputs["same"], X)
        assert ask(known, "ready", "pair")
        for connection, model, code in (
            (known, "identity", StatusCode.PERMISSION_DENIED),
            (Connection(address, ca=ours.ca, cert=known.cert, key=known.key), "pair", StatusCode.UNAUTHENTICATED),
            (Connection(address, tls=True), "pair", StatusCode.UNAVAILABLE),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                ask(connection, "infer", model, {"x": X}, timeout_s=10)
            assert caught.value.code() is code


@dataclass
class Scripted:
    """A server that ends its first calls with the given codes, one after the other, and answers from then on.

    `calls` holds how long each had.
    """

    ends: list[tuple[StatusCode, int | None]]
    address: str = ""
    calls: list[float] = field(default_factory=list)

    def answer(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls.append(context.time_remaining())
        if not self.ends:
            response = pb.ModelInferResponse(model_name="m", model_version="1")
            codec.write_outputs(response, {"y": X}, ["y"], {"y": "FP32"})
            return response.SerializeToString()
        code, pushback_ms = self.ends.pop(0)
        if pushback_ms is not None:
            context.set_trailing_metadata(((PUSHBACK_KEY, str(pushback_ms)),))
        context.abort(code, "as given")
        raise AssertionError("not reached")


@contextlib.contextmanager
def scripted(*ends: tuple[StatusCode, int | None]) -> Iterator[Scripted]:
    script = Scripted(list(ends))
    handler = grpc.unary_unary_rpc_method_handler(script.answer)
    methods = dict.fromkeys(("ModelInfer", "ServerReady", "ModelMetadata"), handler)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    script.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield script
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_several_replicas_are_called_in_turn_except_one_that_is_gone(
    ask: Ask, registry: Registry, tmp_path: Path, encrypted: bool
) -> None:
    files = issue(tmp_path)
    ca = files.ca if encrypted else None

    def replica() -> contextlib.AbstractContextManager[str]:
        credentials = tls.server_credentials(TlsFiles(files.server, files.server_key)) if encrypted else None
        return running(registry, credentials=credentials)

    def name(connection: Connection) -> str:
        return ask(connection, "infer", "pair", {"x": X}).model

    with replica() as first, replica() as second:
        assert name(Connection(f"{first},{second}", ca=ca)) == "pair"
        assert name(Connection(f"127.0.0.1:1,{second}", ca=ca)) == "pair"


def test_calls_go_in_turn() -> None:
    with (
        scripted() as first,
        scripted() as second,
        Client(Connection(f"{first.address},{second.address}")) as client,
    ):
        deadline = time.monotonic() + 20
        while not (first.calls and second.calls):
            assert time.monotonic() < deadline
            client.infer("m", {"x": X})


def test_a_call_that_no_server_took_is_retried_within_one_deadline(ask: Ask) -> None:
    with scripted((StatusCode.UNAVAILABLE, None), (StatusCode.RESOURCE_EXHAUSTED, 700)) as script:
        prediction = ask(script.address, "infer", "m", {"x": X}, timeout_s=5)
        np.testing.assert_array_equal(prediction.outputs["y"], X)
        assert len(script.calls) == 3
        assert script.calls[-1] < 4.5  # gRPC rounds what it sends
        assert script.calls[0] > 4.5


@pytest.mark.parametrize(
    ("code", "pushback_ms"),
    [
        (StatusCode.RESOURCE_EXHAUSTED, None),
        (StatusCode.UNAVAILABLE, -1),
        (StatusCode.INTERNAL, None),
        (StatusCode.DEADLINE_EXCEEDED, None),
        (StatusCode.UNAUTHENTICATED, None),
        (StatusCode.UNAVAILABLE, 60_000),
    ],
)
def test_a_call_that_would_fail_again_is_not_retried(ask: Ask, code: StatusCode, pushback_ms: int | None) -> None:
    with scripted((code, pushback_ms)) as script:
        with pytest.raises(grpc.RpcError) as caught:
            ask(script.address, "infer", "m", {"x": X})
        assert caught.value.code() is code
        assert len(script.calls) == 1


def test_calls_about_the_state_are_made_once(ask: Ask) -> None:
    with scripted((StatusCode.UNAVAILABLE, None)) as script:
        with pytest.raises(grpc.RpcError):
            ask(script.address, "ready")
        assert len(script.calls) == 1


def test_attempts_can_be_limited() -> None:
    with scripted(*[(StatusCode.UNAVAILABLE, 1)] * 9) as script:
        with Client(script.address, max_attempts=2) as client, pytest.raises(grpc.RpcError):
            client.infer("m", {"x": X})
        assert len(script.calls) == 2


@contextlib.contextmanager
def far_away(address: str, delay_s: float) -> Iterator[str]:
    """The same server, behind a link on which everything takes so long."""
    host, port = address.split(":")
    links: list[socket.socket] = []

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(delay_s)
                sink.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection((host, int(port)))
                links.extend((near, far))
                pool.submit(pass_on, near, far)
                pool.submit(pass_on, far, near)

    with ThreadPoolExecutor(9) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        pool.submit(accept)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for held in (listener, *links):
                with contextlib.suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)
            for link in links:
                link.close()


def test_a_server_that_is_far_away_is_reached_at_the_first_attempt(address: str) -> None:
    with far_away(address, 0.2) as distant, Client(distant, max_attempts=1) as client:
        assert client.metadata("identity").name == "identity"
