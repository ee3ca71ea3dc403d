"""The metrics of a replica, compared with what its callers saw."""

import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from optimize.registry import Registry
from optimize.runtime.batching.rejections import QueueFull
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc
from serve.client import codec
from serve.models.hosting import Models
from serve.monitoring.metrics import ReplicaCollector, listen
from serve.transport.servicer import Servicer
from tests.published import publish, scale
from tests.serving import Bare, bare

X = np.arange(8, dtype=np.float32).reshape(2, 4)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(address: str) -> Samples:
    """Every sample of an endpoint by its name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as response:
        text = response.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def by_label(samples: Samples, name: str, *labels: str) -> Counter:
    """The samples of that name, added up by the values of these labels."""
    found: Counter = Counter()
    for (sample, its), value in samples.items():
        if sample == name:
            found[tuple(dict(its)[label] for label in labels)] += int(value)
    return found


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    publish(root, "double", scale(2.0), tmp_path_factory.mktemp("models"))
    return root


@pytest.fixture
def server(registry: Path) -> Iterator[Bare]:
    published = Registry(registry)

    async def fill(models: Models) -> None:
        await models.load(published, published.load("double"))

    with bare(["double"], fill) as running:
        yield running


@pytest.fixture
def endpoint(server: Bare) -> Iterator[str]:
    listening = listen(ReplicaCollector(server.models, server.servicer.calls), range(1))
    assert listening is not None
    httpd, thread = listening
    yield f"127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_histograms_and_gauges_show_what_the_batcher_did(server: Bare, endpoint: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(5):
            stub.ModelInfer(codec.write_request("double", {"x": X}), timeout=20)
        hasty = codec.write_request("double", {"x": X})
        hasty.parameters["timeout"].int64_param = 1
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(hasty, timeout=20)
        with pytest.raises(grpc.RpcError):
            stub.ModelMetadata(pb.ModelMetadataRequest(name="nobody"), timeout=20)
    samples = scraped(endpoint)
    assert by_label(samples, "proveserve_calls_total", "method", "model", "code") == {
        ("ModelInfer", "double", "OK"): 5,
        ("ModelInfer", "double", "DEADLINE_EXCEEDED"): 1,
        ("ModelMetadata", "", "NOT_FOUND"): 1,
    }
    assert by_label(samples, "proveserve_rejected_total", "reason")["infeasible",] == 1
    of_version = frozenset({"model": "double", "version": "1"}.items())
    assert samples["proveserve_batch_rows_sum", of_version] == 10
    assert samples["proveserve_batch_rows_bucket", of_version | {("le", "1.0")}] == 0
    assert samples["proveserve_batch_rows_bucket", of_version | {("le", "+Inf")}] == 5
    assert samples["proveserve_execution_seconds_count", of_version] == 5
    assert samples["proveserve_slots", of_version] >= 1
    assert samples["proveserve_busy_slots", of_version] == samples["proveserve_queued_rows", of_version] == 0
    assert 0 < samples["proveserve_drift_ratio", of_version] < 10
    for name in ("queue", "codec"):
        assert samples[f"proveserve_{name}_seconds_count", frozenset({("model", "double")})] == 5
    (info,) = [dict(labels) for name, labels in samples if name == "proveserve_model_info"]
    assert info["measured"] == "elsewhere"
    assert (info["version"], info["digest"]) == ("1", server.models.find("double", "").manifest.digest)


def test_a_call_that_was_refused_unread_counts_for_no_model(
    server: Bare, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (version,) = server.models.loaded
    monkeypatch.setattr(version.batcher, "refusal", lambda _: lambda: QueueFull("full", 0.1))
    with grpc.insecure_channel(server.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(codec.write_request("double", {"x": X}), timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live, "only predictions are refused"
    samples = scraped(endpoint)
    assert by_label(samples, "proveserve_rejected_total", "model", "reason")["", "unread"] == 1
    assert by_label(samples, "proveserve_calls_total", "model", "code")["", "RESOURCE_EXHAUSTED"] == 1


def test_a_taken_port_is_passed_over(server: Bare, endpoint: str) -> None:
    taken = int(endpoint.rsplit(":", 1)[1])
    assert listen(ReplicaCollector(server.models, Servicer(server.models).calls), range(taken, taken + 1)) is None
