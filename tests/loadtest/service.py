"""A prediction service on a real port whose faults are chosen: slow, frozen, failing, silent. It runs in a thread of the test."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from protos import open_inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
MODEL = "toy"


@dataclass
class Faults:
    """What is wrong with the service; nothing, by default."""

    service_s: float = 0.001
    error_every: int = 0
    error: grpc.StatusCode = grpc.StatusCode.INTERNAL
    silent_every: int = 0
    freeze_s: float = 0.0
    freeze_every_s: float = 0.0
    garbage: bool = False
    metadata: grpc.StatusCode | None = None
    versions: tuple[str, ...] = ("3",)


@dataclass
class Toy:
    """The running service: where it is, and what it was sent."""

    target: str
    requests: list[pb.ModelInferRequest]
    end: Callable[[], None]


METADATA = pb.ModelMetadataResponse(
    name=MODEL,
    versions=["3"],
    inputs=[pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 4])],
    outputs=[pb.ModelMetadataResponse.TensorMetadata(name="y", datatype="FP32", shape=[-1, 4])],
)


class _Handlers:
    def __init__(
        self, faults: Faults, requests: list[pb.ModelInferRequest], metadata: pb.ModelMetadataResponse
    ) -> None:
        self._faults = faults
        self._requests = requests
        self._metadata = metadata
        self._calls = itertools.count(1)

    async def metadata(self, request: pb.ModelMetadataRequest, context: grpc.aio.ServicerContext) -> object:
        if self._faults.metadata is not None:
            await context.abort(self._faults.metadata, "no metadata")
        if request.name != self._metadata.name:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return self._metadata

    async def infer(self, raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        faults, number = self._faults, next(self._calls)
        if len(self._requests) < 1000:
            self._requests.append(pb.ModelInferRequest.FromString(raw))
        if faults.silent_every and number % faults.silent_every == 0:
            await asyncio.sleep(3600)
        if faults.error_every and number % faults.error_every == 0:
            await context.abort(faults.error, "as asked")
        await asyncio.sleep(faults.service_s)
        if faults.garbage:
            return b"\xff" * 7
        version = faults.versions[number % len(faults.versions)]
        return pb.ModelInferResponse(model_name=MODEL, model_version=version).SerializeToString()


async def _freeze(faults: Faults) -> None:
    while faults.freeze_s:
        await asyncio.sleep(faults.freeze_every_s - faults.freeze_s)
        time.sleep(faults.freeze_s)  # on the loop itself, so that nothing is answered meanwhile


class _Server(threading.Thread):
    """Runs the service on a loop of its own."""

    def __init__(self, handlers: _Handlers, faults: Faults) -> None:
        super().__init__(name="toy-service")
        self._handlers = handlers
        self._faults = faults
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._up = threading.Event()
        self._port = 0

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    def wait_for_port(self) -> int:
        assert self._up.wait(10)
        return self._port

    def end(self) -> None:
        if not self.is_alive():
            return
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(10)
        assert not self.is_alive()

    async def _serve(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        methods = {
            "ModelMetadata": grpc.unary_unary_rpc_method_handler(
                self._handlers.metadata,
                pb.ModelMetadataRequest.FromString,
                pb.ModelMetadataResponse.SerializeToString,
            ),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._handlers.infer),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        self._port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        freezer = asyncio.create_task(_freeze(self._faults))
        self._up.set()
        await self._over.wait()
        freezer.cancel()
        await server.stop(None)


@contextlib.contextmanager
def running(faults: Faults | None = None, metadata: pb.ModelMetadataResponse = METADATA) -> Iterator[Toy]:
    """The service on a free port of loopback, until the block ends."""
    faults = faults or Faults()
    requests: list[pb.ModelInferRequest] = []
    server = _Server(_Handlers(faults, requests, metadata), faults)
    server.start()
    port = server.wait_for_port()
    try:
        yield Toy(f"127.0.0.1:{port}", requests, server.end)
    finally:
        server.end()
