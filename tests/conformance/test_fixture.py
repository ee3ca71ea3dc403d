"""Cases about queues, deadlines and isolation, on servers whose models the test holds in its hand: bare, and on Ray Serve."""

import asyncio
import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from optimize.registry import Registry
from protos import open_inference_pb2 as pb
from serve.client import codec
from serve.metadata_keys import PUSHBACK_KEY
from serve.models.hosting import Models
from tests.conformance.conftest import TIMEOUT_S, Target
from tests.conformance.fakes import KINDS, POISON, HeldModel, HeldSession, RemoteModel, hosted, publish_held
from tests.serving import Bare, bare, started

REPOSITORY = Path(__file__).parents[2]
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


class Held(Target):
    """A server of held models; the tests hold the one that is called `name`."""

    def __init__(self, address: str, models: Mapping[str, HeldModel | RemoteModel], name: str = "held") -> None:
        super().__init__(address)
        self._models = models
        self.name = name
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def ask(self, what: str) -> Any:
        return self._models[self.name].ask(what)

    def start(self, value: float, rows: int = 1, timeout_s: float = TIMEOUT_S, **parameters: int) -> grpc.Future:
        """A call under way, all of whose elements are `value`."""
        request = codec.write_request(self.name, {"x": np.full((rows, 4), value, np.float32)})
        for name, number in parameters.items():
            request.parameters[name].int64_param = number
        return self.stub.ModelInfer.future(request, timeout=timeout_s)

    def wait_until(self, what: str, wanted: int) -> None:
        """Until so many rows wait (`queued_rows`), or so many executions are under way (`running`)."""
        deadline = time.monotonic() + TIMEOUT_S
        while (found := self.ask(what)) != wanted:
            assert time.monotonic() < deadline, f"{what} is {found}"
            time.sleep(0.002)

    def wait_queued(self, rows: int) -> None:
        self.wait_until("queued_rows", rows)

    def occupy(self) -> grpc.Future:
        """A call that keeps the only session busy until it is let go."""
        self.ask("hold")
        call = self.start(0.5)
        self.ask("wait_started")
        return call

    def close(self) -> None:
        """Nothing waits or runs, one good call succeeds, and the next test finds the model as new."""
        self.ask("release")
        self.wait_queued(0)
        self.wait_until("running", 0)
        self.good_call(self.name)
        self.ask("forget")
        self.channel.close()


def value_of(call: grpc.Future) -> set[float]:
    return set(codec.read_outputs(call.result())["y"].ravel().tolist())


def code_of(call: grpc.Future) -> StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    return caught.value.code()


class Service(NamedTuple):
    """A server of held models, and how its models are reached."""

    address: str
    models: Mapping[str, HeldModel | RemoteModel]


@contextlib.contextmanager
def on_bare_server(registry: Path) -> Iterator[tuple[Service, Bare]]:
    published = Registry(registry)
    held_models: dict[str, HeldModel] = {}

    async def fill(models: Models) -> None:
        for name in KINDS:
            session = HeldSession()
            ready = hosted(published.load(name), session)
            await ready.batcher.__aenter__()
            models.add(ready)
            held_models[name] = HeldModel(session, ready.batcher)

    with bare(list(KINDS), fill) as server:
        yield Service(server.address, held_models), server


@contextlib.contextmanager
def on_ray(registry: Path, route: str) -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/controls"
        command = [sys.executable, "-m", "tests.conformance.held_service", str(registry), route, socket]
        with started(command, REPOSITORY, models=1) as service, Client(socket, "AF_UNIX") as connection:
            yield Service(service.address, {name: RemoteModel(connection, name) for name in KINDS})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_held(tmp_path_factory.mktemp("held"))


@pytest.fixture(scope="module", params=["bare", "native", "public"])
def service(request: pytest.FixtureRequest, registry: Path) -> Iterator[Service]:
    if request.param == "bare":
        with on_bare_server(registry) as (found, _):
            yield found
    else:
        with on_ray(registry, request.param) as found:
            yield found


@pytest.fixture
def held(service: Service, request: pytest.FixtureRequest) -> Iterator[Held]:
    """The plain model, unless the test asks for another."""
    target = Held(service.address, service.models, getattr(request, "param", "held"))
    yield target
    target.close()


@pytest.fixture
def alone(registry: Path) -> Iterator[tuple[Held, Bare]]:
    """A bare server of the test's own."""
    with on_bare_server(registry) as (found, server):
        target = Held(found.address, found.models)
        yield target, server
        target.ask("release")
        target.channel.close()


def test_live_ready_split_and_model_loading(registry: Path) -> None:
    async def nothing(_: Models) -> None:
        pass

    with bare(["held"], nothing) as server:
        target = Held(server.address, {})
        watch = target.health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == NOT_SERVING
        assert target.stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT_S).live
        assert not target.stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S).ready
        assert not target.accepts("held")
        assert code_of(target.start(1)) is StatusCode.UNAVAILABLE

        async def load() -> None:
            ready = hosted(Registry(registry).load("held"), HeldSession())
            await ready.batcher.__aenter__()
            server.models.add(ready)

        server.run(load())
        assert next(watch).status == SERVING
        assert target.accepts("held")
        assert target.stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S).ready
        target.good_call("held")
        target.channel.close()


def test_deadline_in_queue(held: Held) -> None:
    first = held.occupy()
    assert code_of(held.start(1, timeout_s=0.05)) is StatusCode.DEADLINE_EXCEEDED
    held.wait_queued(0)
    held.ask("release")
    assert value_of(first) == {0.5}
    assert held.ask("executions") == [1]


@pytest.mark.parametrize("held", ["long"], indirect=True)
def test_deadline_infeasible(held: Held) -> None:
    started = time.monotonic()
    call = held.start(1, timeout_s=2.0)
    assert code_of(call) is StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 1.0
    assert held.ask("executions") == []


def test_deadline_running(held: Held) -> None:
    first = held.occupy()
    late = held.start(1, timeout_s=1.0)
    mates = [held.start(value) for value in (2, 3)]
    held.wait_queued(3)
    held.ask("let_go")
    held.ask("wait_started")
    assert code_of(late) is StatusCode.DEADLINE_EXCEEDED
    assert not any(mate.done() for mate in mates)
    held.ask("let_go")
    assert [value_of(call) for call in (first, *mates)] == [{0.5}, {2.0}, {3.0}]
    assert held.ask("executions") == [1, 3]


def test_the_requests_own_timeout_counts_while_it_runs(held: Held) -> None:
    held.ask("hold")
    call = held.start(1, timeout=500_000)  # microseconds
    held.ask("wait_started")
    assert code_of(call) is StatusCode.DEADLINE_EXCEEDED


def test_cancel_queued(held: Held) -> None:
    first = held.occupy()
    waiting = [held.start(value) for value in (1, 2)]
    held.wait_queued(2)
    waiting[0].cancel()
    held.wait_queued(1)
    held.ask("release")
    assert value_of(first) == {0.5}
    assert value_of(waiting[1]) == {2.0}
    assert waiting[0].cancelled()
    assert held.ask("executions") == [1, 1]


def test_cancel_running(held: Held) -> None:
    first = held.occupy()
    mates = [held.start(value) for value in (1, 2)]
    held.wait_queued(2)
    held.ask("let_go")
    held.ask("wait_started")
    mates[0].cancel()
    held.ask("let_go")
    assert value_of(mates[1]) == {2.0}
    assert value_of(first) == {0.5}


@pytest.mark.parametrize("held", ["short"], indirect=True)
def test_queue_full(held: Held) -> None:
    first = held.occupy()
    accepted = [held.start(value, rows=4) for value in (1, 2)]
    held.wait_queued(8)
    started = time.monotonic()
    refused = held.start(3)
    assert code_of(refused) is StatusCode.RESOURCE_EXHAUSTED
    assert time.monotonic() - started < 0.5
    trailing = dict(refused.trailing_metadata())
    assert int(trailing[PUSHBACK_KEY]) > 0
    held.ask("release")
    assert [value_of(call) for call in (first, *accepted)] == [{0.5}, {1.0}, {2.0}]


def test_a_call_is_not_read_that_no_model_could_answer(service: Service) -> None:
    with contextlib.ExitStack() as stack:
        every = [Held(service.address, service.models, name) for name in KINDS]
        for held in every:
            stack.callback(held.close)
        accepted = []
        for held in every:
            accepted.append(held.occupy())
            fill = range(8, KINDS[held.name].max_queue_rows + 1, 8)
            accepted += [held.start(1, rows=8, timeout_s=600) for _ in fill]
            held.wait_queued(fill[-1])

        more = threading.Event()
        silent = every[0].channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        refused = silent.future((b"" for _ in iter(more.wait, None)), timeout=TIMEOUT_S)
        assert code_of(refused) is StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(refused.trailing_metadata())[PUSHBACK_KEY]) > 0
        more.set()

        for held in every:
            held.ask("release")
        assert {frozenset(value_of(call)) for call in accepted} == {frozenset({0.5}), frozenset({1.0})}


def test_poison_row(held: Held) -> None:
    first = held.occupy()
    values = [1.0, 2.0, POISON, 4.0]
    calls = [held.start(value) for value in values]
    held.wait_queued(4)
    held.ask("release")
    assert value_of(first) == {0.5}
    for value, call in zip(values, calls, strict=True):
        if value != POISON:
            assert value_of(call) == {value}
            continue
        assert code_of(call) is StatusCode.INTERNAL
        assert call.details() == "the model failed on this request"


def test_priority(held: Held) -> None:
    first = held.occupy()
    flood = [held.start(value, rows=8, priority=9) for value in (1, 2, 3)]
    held.wait_queued(24)
    urgent = held.start(7, rows=8, priority=0)
    held.wait_queued(32)
    held.ask("let_go")
    held.ask("wait_started")
    held.ask("let_go")
    assert value_of(urgent) == {7.0}
    assert not any(call.done() for call in flood)
    held.ask("release")
    assert [value_of(call) for call in (first, *flood)] == [{0.5}, {1.0}, {2.0}, {3.0}]


def test_drain(alone: tuple[Held, Bare]) -> None:
    held, server = alone
    watch = held.health.Watch(health_pb2.HealthCheckRequest(service="held"))
    assert next(watch).status == SERVING
    first = held.occupy()
    queued = held.start(1)
    held.wait_queued(1)
    draining = server.spawn(server.models.drain())
    assert next(watch).status == NOT_SERVING
    with pytest.raises(StopIteration):
        next(watch)
    assert code_of(held.start(2)) is StatusCode.UNAVAILABLE
    assert not held.accepts("held")
    held.ask("release")
    assert [value_of(first), value_of(queued)] == [{0.5}, {1.0}]
    draining.result(timeout=TIMEOUT_S)


@pytest.mark.parametrize("total", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_state_cleanup(held: Held, total: int) -> None:
    """After a mix of answers, cancels, timeouts and errors nothing waits or runs."""

    async def drive() -> list[str]:
        async with grpc.aio.insecure_channel(held.address) as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer", request_serializer=pb.ModelInferRequest.SerializeToString
            )

            async def one(index: int) -> str:
                value = POISON if index % 5 == 0 else float(index)
                request = codec.write_request("held", {"x": np.full((1, 4), value, np.float32)})
                call = infer(request, timeout=0.02 if index % 7 == 0 else TIMEOUT_S)
                if index % 3 == 0:
                    asyncio.get_running_loop().call_later(0.002, call.cancel)
                try:
                    await call
                except asyncio.CancelledError:
                    return "CANCELLED"
                except grpc.aio.AioRpcError as error:
                    return error.code().name
                return "OK"

            return [
                end
                for start in range(0, total, 20)
                for end in await asyncio.gather(*map(one, range(start, start + 20)))
            ]

    ends = asyncio.run(drive())
    assert set(ends) <= {"OK", "CANCELLED", "INTERNAL", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert "OK" in ends
    assert "INTERNAL" in ends
    held.wait_queued(0)
    held.wait_until("running", 0)


def test_nothing_of_the_inside_is_in_a_refusal(held: Held) -> None:
    call = held.start(POISON)
    assert code_of(call) is StatusCode.INTERNAL
    assert "secret" not in call.details()
    assert Path(__file__).parts[1] not in call.details()
