"""What an operator has of a running service: metrics, a log, and replicas that are replaced when they are sick."""

import contextlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import msgspec
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from optimize.manifest import Verdict
from optimize.registry import Registry
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc
from serve.client import codec
from tests.published import laborious, publish, scale
from tests.serve.monitoring.test_metrics import by_label, scraped
from tests.serving import Served, served, until

TIMEOUT_S = 20.0
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def lookup() -> onnx.ModelProto:
    """x[batch, 4] -> y = x for integers below 8; any other makes it fail."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "lookup",
        [value("x", TensorProto.INT64, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor("table", TensorProto.FLOAT, [8], list(range(8)))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    folder = tmp_path_factory.mktemp("models")
    double = publish(root, "double", scale(2.0), folder)
    memory = Verdict("memory.peak_mb", 30.0, 20.0, 19.0, 20.0, 3, "PASS", "less than any replica takes")
    Registry(root).publish(msgspec.structs.replace(double, verdicts=(memory,)))
    publish(root, "lookup", lookup(), folder)
    publish(root, "laborious", laborious(width=512), folder, max_batch=1)
    return root


@pytest.fixture(scope="module", params=["native", "public"])
def service(registry: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(registry, "--route", request.param) as running:
        until(lambda: bool(events(running, "ready")))  # the last line of a start
        yield running


def metrics_of(service: Served) -> list[str]:
    return service.ready[0].split("metrics=")[1].split()[0].split(",")


def events(service: Served, event: str) -> list[dict]:
    lines = [json.loads(line) for line in service.output.copy() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def request_of(model: str, x: np.ndarray) -> pb.ModelInferRequest:
    return codec.write_request(model, {"x": x})


def mixed_run(channel: grpc.Channel) -> Counter:
    """Calls of every kind, and how many ended with which code as their callers saw it."""
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    garbage = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    hasty = request_of("double", X)
    hasty.parameters["timeout"].int64_param = 1
    calls = [
        *(stub.ModelInfer.future(request_of("double", X + n), timeout=TIMEOUT_S) for n in range(30)),
        *(stub.ModelInfer.future(request_of("nobody", X), timeout=TIMEOUT_S) for _ in range(3)),
        *(stub.ModelInfer.future(request_of("double", X[:, :3]), timeout=TIMEOUT_S) for _ in range(4)),
        *(stub.ModelInfer.future(request_of("lookup", np.full((1, 4), 99)), timeout=TIMEOUT_S) for _ in range(2)),
        *(stub.ModelInfer.future(hasty, timeout=TIMEOUT_S) for _ in range(5)),
        *(garbage.future(b"\xff\xff\xff", timeout=TIMEOUT_S) for _ in range(6)),
        stub.ServerReady.future(pb.ServerReadyRequest(), timeout=TIMEOUT_S),
        stub.ModelMetadata.future(pb.ModelMetadataRequest(name="nobody"), timeout=TIMEOUT_S),
    ]
    codes: Counter = Counter()
    for call in calls:
        codes[call.code().name] += 1
    return codes


def test_metrics_consistency(service: Served) -> None:
    """Calls by code add up to the calls that were made, those that were turned down or given up included."""
    (address,) = metrics_of(service)

    def asked_whether_ready() -> float:
        return by_label(scraped(address), "proveserve_calls_total", "method")["ServerReady",]

    with grpc.insecure_channel(service.address) as channel:
        # A call is counted just after its caller has the answer: once a later one is, those of other tests are, too.
        known = asked_whether_ready()
        open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).ServerReady(
            pb.ServerReadyRequest(), timeout=TIMEOUT_S
        )
        until(lambda: asked_whether_ready() > known)
        before = by_label(scraped(address), "proveserve_calls_total", "code")
        expected = mixed_run(channel)
        assert expected == {"OK": 31, "NOT_FOUND": 4, "INVALID_ARGUMENT": 10, "INTERNAL": 2, "DEADLINE_EXCEEDED": 5}
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        given_up = [stub.ModelInfer.future(request_of("laborious", X[:1] + 60), timeout=TIMEOUT_S) for _ in range(3)]
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING  # so the calls before it have arrived
        for call in (*given_up, watch):
            call.cancel()
        expected["CANCELLED"] += 4

        def counted() -> Counter:
            found = by_label(scraped(address), "proveserve_calls_total", "code")
            found.subtract(before)
            return Counter({code: count for (code,), count in found.items() if count})

        until(lambda: counted().total() >= expected.total())
        assert counted() == expected


def test_the_cause_of_an_internal_error_is_in_the_log_and_nowhere_else(service: Served) -> None:
    request = request_of("lookup", np.full((1, 4), 77))
    request.id = "order-66"
    with grpc.insecure_channel(service.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=TIMEOUT_S, metadata=(("traceparent", TRACE),))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "the model failed on this request"

    def logged() -> list[dict]:
        return [line for line in events(service, "call_failed") if line.get("request_id") == "order-66"]

    until(lambda: bool(logged()))
    (line,) = logged()
    assert line["level"] == "ERROR"
    assert line["model"] == "lookup"
    assert line["traceparent"] == TRACE
    assert "idx=77" in line["error"]


def test_calls_that_go_well_are_not_logged(service: Served) -> None:
    lines = len([line for line in service.output if line.startswith("{")])
    with grpc.insecure_channel(service.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(5):
            stub.ModelInfer(request_of("double", X), timeout=TIMEOUT_S)
        failing = request_of("lookup", np.full((1, 4), 78))
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(failing, timeout=TIMEOUT_S)
    until(lambda: len([line for line in service.output if line.startswith("{")]) > lines)
    added = [json.loads(line) for line in service.output if line.startswith("{")][lines:]
    assert {line["event"] for line in added} == {"call_failed"}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduler")
def test_every_thread_of_a_replica_takes_turns(service: Served) -> None:
    """Those of gRPC, too, which Serve starts after our own part."""
    (replica,) = [one for one in service.family() if one.cmdline()[0].startswith("ray::ServeReplica")]
    policies = set()
    for thread in replica.threads():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            policies.add(os.sched_getscheduler(thread.id))
    assert policies == {os.SCHED_BATCH}


def test_memory_is_told_against_the_budgets(service: Served) -> None:
    """As long as a model of the replica has none, the log adds nothing up, and the metrics tell of those that have one."""
    *_, replica = events(service, "replica_ready")
    assert replica["level"] == "INFO"
    assert "budget_mb" not in replica
    samples = scraped(metrics_of(service)[0])
    resident_bytes = samples["process_resident_memory_bytes", frozenset()]
    assert resident_bytes == pytest.approx(1e6 * replica["resident_mb"], rel=0.5)
    assert by_label(samples, "proveserve_memory_budget_bytes", "model", "version") == {("double", "2"): 30_000_000}
    assert by_label(samples, "proveserve_memory_measured_peak_bytes", "model", "version") == {
        ("double", "2"): 20_000_000
    }


def test_starting_and_stopping_is_logged_and_nothing_else_is_printed(registry: Path) -> None:
    with served(registry, "--model", "double") as service:
        assert service.stop() == 0
    # Its last lines are read before the block ends.
    assert [line.split()[0] for line in service.output if not line.startswith("{")] == ["READY", "stopping;"]
    assert [len(events(service, event)) for event in ("ready", "draining", "drained")] == [1, 1, 1]
    *_, replica = events(service, "replica_ready")
    assert replica["level"] == "WARNING"
    assert (replica["measured_peak_mb"], replica["budget_mb"]) == (20.0, 30.0)
    assert replica["resident_mb"] > replica["budget_mb"]
    assert 0 < replica["seconds"] < events(service, "ready")[0]["seconds"]


@pytest.mark.slow
def test_a_replica_whose_model_hangs_is_replaced(registry: Path) -> None:
    with served(registry, "--model", "laborious") as service, grpc.insecure_channel(service.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(request_of("laborious", X[:1]), timeout=TIMEOUT_S)
        started = time.monotonic()
        hung = stub.ModelInfer.future(request_of("laborious", X[:1] + 1e9), timeout=120)
        assert hung.code() is grpc.StatusCode.UNAVAILABLE
        response = stub.ModelInfer(request_of("laborious", X[:1]), timeout=60, wait_for_ready=True)
        assert time.monotonic() - started < 60
        np.testing.assert_array_equal(codec.read_outputs(response)["y"], X[:1])
        unhealthy = events(service, "unhealthy")
        assert unhealthy
        assert {line["reason"] for line in unhealthy} == {"model laborious version 1: an execution does not end"}


@pytest.mark.slow
def test_a_slow_replica_is_replaced_unless_all_are_slow(registry: Path) -> None:
    with served(registry, "--model", "laborious", "--replicas", "2") as service:
        work = dict.fromkeys(service.ready[0].split(" address=")[1].split()[0].split(","), 10.0)
        ended = threading.Event()

        def keep_busy(address: str) -> None:
            with grpc.insecure_channel(address) as channel:
                stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
                while not ended.is_set():
                    x = np.full((1, 4), work[address], np.float32)
                    try:
                        stub.ModelInfer(request_of("laborious", x), timeout=TIMEOUT_S, wait_for_ready=True)
                    except grpc.RpcError:  # the replica was replaced
                        continue
                    time.sleep(0.01)

        threads = [threading.Thread(target=keep_busy, args=(address,)) for address in work]
        for thread in threads:
            thread.start()
        try:
            time.sleep(35)
            assert events(service, "unhealthy") == []
            work[next(iter(work))] = 0.0
            until(lambda: len({line["replica"] for line in opened(service)}) == 3, timeout_s=60)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert len({line["replica"] for line in events(service, "unhealthy")}) == 1


def opened(service: Served) -> list[dict]:
    return events(service, "version_opened")
