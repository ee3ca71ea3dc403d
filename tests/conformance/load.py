"""Callers that go on calling while something happens to the service."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import grpc
import numpy as np

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc
from serve.client import codec

CALL_TIMEOUT_S = 20.0
PAUSE_AFTER_ERROR_S = 0.05


class Ended(NamedTuple):
    """One call: when it ended, its code, and what the model made of 1 in which version."""

    at: float
    address: str
    code: str
    version: str = ""
    value: float = 0.0


class Load:
    """Callers of one model, each with one call at a time, spread over the addresses."""

    def __init__(self, addresses: Sequence[str], model: str, callers: int, timeout_s: float) -> None:
        self._addresses = addresses
        self._model = model
        self._callers = callers
        self._timeout_s = timeout_s
        self._stopped = threading.Event()
        self.ended: list[Ended] = []

    def codes(self) -> Counter[str]:
        return Counter(call.code for call in self.ended)

    def versions(self) -> set[tuple[str, float]]:
        """Version and value of each answer."""
        return {(call.version, call.value) for call in self.ended if call.code == "OK"}

    def wait(self, condition: Callable[[list[Ended]], bool], timeout_s: float) -> float:
        """Until the calls that end from now on fulfil a condition; the seconds that it took."""
        began, first = time.monotonic(), len(self.ended)
        while not condition(self.ended[first:]):
            assert time.monotonic() - began < timeout_s, (
                f"not within {timeout_s} s; {Counter(self.ended[first:]).most_common(5)}"
            )
            time.sleep(0.05)
        return time.monotonic() - began

    def run(self) -> None:
        asyncio.run(self._drive())

    def stop(self) -> None:
        self._stopped.set()

    async def _drive(self) -> None:
        channels = [grpc.aio.insecure_channel(address, _RECONNECT_SOON) for address in self._addresses]
        targets = list(zip(self._addresses, channels, strict=True))
        await asyncio.gather(*(self._call(*targets[index % len(targets)]) for index in range(self._callers)))
        for channel in channels:
            await channel.close()

    async def _call(self, address: str, channel: grpc.aio.Channel) -> None:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = codec.write_request(self._model, {"x": np.ones((1, 4), np.float32)})
        while not self._stopped.is_set():
            self.ended.append(await self._one(address, stub, request))
            if self.ended[-1].code != "OK":
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)

    async def _one(
        self, address: str, stub: open_inference_pb2_grpc.GRPCInferenceServiceStub, request: pb.ModelInferRequest
    ) -> Ended:
        try:
            response = await stub.ModelInfer(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            return Ended(time.monotonic(), address, error.code().name)
        value = float(codec.read_outputs(response)["y"][0, 0])
        return Ended(time.monotonic(), address, "OK", response.model_version, value)


_RECONNECT_SOON = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))


@contextmanager
def under_load(
    addresses: Sequence[str], model: str, *, callers: int = 8, timeout_s: float = CALL_TIMEOUT_S
) -> Iterator[Load]:
    """Callers from before the block until its end."""
    load = Load(addresses, model, callers, timeout_s)
    thread = threading.Thread(target=load.run, name="load")
    thread.start()
    try:
        load.wait(lambda calls: len(calls) >= callers, 30)
        yield load
    finally:
        load.stop()
        thread.join()
