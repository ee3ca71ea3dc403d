from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from optimize.registry import Registry
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc
from serve.client import codec
from serve.models.hosting import Models
from tests.conformance import models
from tests.serving import Served, bare, served

TIMEOUT_S = 20.0
SERVED = {
    "native": ("--route", "native"),
    "public": ("--route", "public"),
    "haproxy": ("--haproxy", "--replicas", "2"),
}


class Target:
    """A server under test, over one channel, and the processes that it is made of, where they are ours."""

    def __init__(self, address: str, processes: Sequence[psutil.Process] = (), *, proxied: bool = False) -> None:
        self.address = address
        self.processes = processes
        self.proxied = proxied
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
        self.stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(self, request: pb.ModelInferRequest, timeout: float = TIMEOUT_S) -> pb.ModelInferResponse:
        return self.stub.ModelInfer(request, timeout=timeout)

    def refusal(self, request: pb.ModelInferRequest, timeout: float = TIMEOUT_S) -> tuple[grpc.StatusCode, str]:
        """The code and text that a call is refused with."""
        with pytest.raises(grpc.RpcError) as caught:
            self.infer(request, timeout)
        return caught.value.code(), caught.value.details()

    def good_call(self, model: str = "identity") -> None:
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        outputs = codec.read_outputs(self.infer(codec.write_request(model, {"x": x})))
        np.testing.assert_array_equal(next(iter(outputs.values())), x)

    def accepts(self, model: str) -> bool:
        return bool(self.stub.ModelReady(pb.ModelReadyRequest(name=model), timeout=TIMEOUT_S).ready)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    models.publish_all(root, tmp_path_factory.mktemp("models"))
    return root


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every blackbox case runs on a bare server, on both routes of Ray Serve, behind HAProxy, and on an address that is given."""
    if "server" in metafunc.fixturenames:
        given = ["address"] if metafunc.config.getoption("--address") else []
        metafunc.parametrize("server", ["bare", *SERVED, *given], indirect=True, scope="package")


@pytest.fixture(scope="package")
def server(request: pytest.FixtureRequest, registry: Path) -> Iterator[Target]:
    if request.param == "address":
        yield Target(request.config.getoption("--address"))
        return
    published = Registry(registry)

    async def fill(hosted: Models) -> None:
        for name in published.models():
            await hosted.load(published, published.load(name))

    running = bare(published.models(), fill) if request.param == "bare" else served(registry, *SERVED[request.param])
    with running as service:
        processes = service.family() if isinstance(service, Served) else [psutil.Process()]
        target = Target(service.address, processes, proxied=request.param == "haproxy")
        yield target
        target.channel.close()


@pytest.fixture
def target(server: Target) -> Iterator[Target]:
    """The server; after each case one good call must succeed."""
    yield server
    server.good_call()


@pytest.fixture
def x() -> np.ndarray:
    return np.arange(8, dtype=np.float32).reshape(2, 4)
