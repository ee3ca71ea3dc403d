"""What is left of ten thousand calls at once, and of two minutes of calls that end in every way: nothing. On Ray; slow."""

import asyncio
import contextlib
import re
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc
from serve.client import codec
from tests.published import publish
from tests.serving import Served, served

pytestmark = pytest.mark.slow

AT_ONCE = 10_000
CHANNELS = 20
SOAK_S = 120.0
ANSWER_TIMEOUT_S = 60.0
QUIET_S = 20.0
LAST_ROW = 1_000_000.0
"""The fragile model raises on anything beyond."""

Stub = open_inference_pb2_grpc.GRPCInferenceServiceStub


def fragile() -> onnx.ModelProto:
    """x[batch, 4] -> y = x; it raises for the whole batch where a value is beyond LAST_ROW."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Div", ["largest", "limit"], ["ratio"]),
            helper.make_node("Cast", ["ratio"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["one", "index"], ["factor"]),
            helper.make_node("Mul", ["x", "factor"], ["y"]),
        ],
        "fragile",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor("limit", TensorProto.FLOAT, [], [LAST_ROW]),
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module", params=["native", "public"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("flood")
    publish(folder / "registry", "fragile", fragile(), folder)
    with served(folder / "registry", "--route", request.param) as running:
        yield running


@contextlib.asynccontextmanager
async def stubs(address: str) -> AsyncIterator[list[Stub]]:
    """As many connections as share the calls of one address."""
    # Channels of the same arguments share a connection; a number of its own gives each one to itself.
    channels = [grpc.aio.insecure_channel(address, [("test.number", number)]) for number in range(CHANNELS)]
    yield [open_inference_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
    for channel in channels:
        await channel.close()


def request_of(value: float, model: str = "fragile") -> pb.ModelInferRequest:
    return codec.write_request(model, {"x": np.full((1, 4), value, np.float32)})


async def end_of(call: grpc.aio.UnaryUnaryCall, value: float) -> str:
    """How a call ended; an answer must be its own."""
    try:
        response = await call
    except asyncio.CancelledError:
        return "CANCELLED"
    except grpc.aio.AioRpcError as error:
        return error.code().name
    np.testing.assert_array_equal(codec.read_outputs(response)["y"], np.full((1, 4), value, np.float32))
    return "OK"


async def flood(address: str) -> Counter[str]:
    """So many calls in flight at once, each with a value of its own."""
    async with stubs(address) as found:
        calls = [
            found[index % CHANNELS].ModelInfer(request_of(index), timeout=ANSWER_TIMEOUT_S) for index in range(AT_ONCE)
        ]
        return Counter(await asyncio.gather(*(end_of(call, index) for index, call in enumerate(calls))))


def replica(service: Served) -> psutil.Process:
    (found,) = [process for process in service.family() if "ServeReplica" in " ".join(process.cmdline())]
    return found


def gauge(service: Served, name: str) -> float:
    """The sum of a metric over its labels."""
    metrics = service.ready[0].split("metrics=")[1].split()[0]
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(float(found) for found in re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE))


def wait_quiet(service: Served) -> None:
    """Until nothing waits or runs."""
    deadline = time.monotonic() + QUIET_S
    while gauge(service, "proveserve_queued_rows") + gauge(service, "proveserve_busy_slots"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def good_call(service: Served) -> None:
    with grpc.insecure_channel(service.address) as channel:
        response = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request_of(7), timeout=20)
    np.testing.assert_array_equal(codec.read_outputs(response)["y"], np.full((1, 4), 7, np.float32))


def test_ten_thousand_calls_in_flight(service: Served) -> None:
    asyncio.run(flood(service.address))  # the replica has then grown to what such a flood takes
    wait_quiet(service)
    before = replica(service).memory_info().rss
    ends = asyncio.run(flood(service.address))
    assert ends.total() == AT_ONCE
    assert ends.keys() <= {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}, ends
    assert ends["OK"]
    wait_quiet(service)
    assert replica(service).memory_info().rss < 1.1 * before
    good_call(service)


async def soak(address: str, duration_s: float) -> Counter[str]:
    """Calls that are answered, cancelled, too late, malformed, for nobody, and poisonous, from many callers at once."""
    ends: Counter[str] = Counter()
    finish = time.monotonic() + duration_s

    async def caller(stub: Stub, number: int) -> None:
        turn = number
        while time.monotonic() < finish:
            turn += 1
            ends[await KINDS[turn % len(KINDS)](stub, float(turn % 1000))] += 1

    async with stubs(address) as found:
        await asyncio.gather(*(caller(found[number % CHANNELS], number) for number in range(64)))
    return ends


async def answered(stub: Stub, value: float) -> str:
    return await end_of(stub.ModelInfer(request_of(value), timeout=ANSWER_TIMEOUT_S), value)


async def cancelled(stub: Stub, value: float) -> str:
    call = stub.ModelInfer(request_of(value), timeout=ANSWER_TIMEOUT_S)
    asyncio.get_running_loop().call_later(0.0005 * (value % 20), call.cancel)
    return await end_of(call, value)


async def late(stub: Stub, value: float) -> str:
    return await end_of(stub.ModelInfer(request_of(value), timeout=0.0005 * (1 + value % 20)), value)


async def malformed(stub: Stub, value: float) -> str:
    request = request_of(value)
    request.inputs[0].shape[:] = [3, 3]
    return await end_of(stub.ModelInfer(request, timeout=ANSWER_TIMEOUT_S), value)


async def for_nobody(stub: Stub, value: float) -> str:
    return await end_of(stub.ModelInfer(request_of(value, "nobody"), timeout=ANSWER_TIMEOUT_S), value)


async def poisonous(stub: Stub, value: float) -> str:
    return await end_of(stub.ModelInfer(request_of(3 * LAST_ROW), timeout=ANSWER_TIMEOUT_S), value)


KINDS: list[Callable] = [answered, cancelled, answered, late, answered, malformed, answered, for_nobody, poisonous]


def test_two_minutes_of_everything(service: Served) -> None:
    asyncio.run(soak(service.address, SOAK_S / 8))
    wait_quiet(service)
    process = replica(service)
    before, descriptors = process.memory_info().rss, process.num_fds()
    ends = asyncio.run(soak(service.address, SOAK_S))
    wait_quiet(service)
    assert ends.keys() <= {
        "OK",
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "INTERNAL",
        "RESOURCE_EXHAUSTED",
    }, ends
    assert min(ends[code] for code in ("OK", "CANCELLED", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "INTERNAL")) > 0
    assert replica(service).pid == process.pid
    assert process.memory_info().rss < 1.1 * before
    assert process.num_fds() <= descriptors + 5
    good_call(service)
