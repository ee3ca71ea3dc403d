"""`optimize serve` as a user runs it: a process of its own, Ray below it, stock clients outside."""

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc
from serve.client import Client, codec
from tests.published import laborious, publish, scale
from tests.serving import COMMAND, Served, gone, served

REPOSITORY = Path(__file__).parents[2]
X = np.arange(8, dtype=np.float32).reshape(2, 4)
LONG = np.full((1, 4), 200, np.float32)
"""What the slow model takes a second or more for."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    folder = tmp_path_factory.mktemp("models")
    publish(root, "double", scale(2.0), folder)
    publish(root, "double", scale(-2.0), folder)
    publish(root, "triple", scale(3.0), folder)
    publish(root, "slow", laborious(width=768), folder, max_batch=1)
    return root


@pytest.fixture(scope="module")
def service(registry: Path) -> Iterator[Served]:
    with served(registry, "--model", "double@1", "--model", "double@2", "--model", "triple") as running:
        yield running


def test_a_stock_tritonclient_infers(service: Served) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.e2e.triton", service.address, "double"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["live"]
    assert found["ready"]
    assert found["model_ready"]
    assert found["metadata"] == ["double", ["1", "2"], "FP32"]
    assert found["sync"] == (2 * X).tolist()
    assert found["async"] == [(2 * X).tolist(), "a-1"]
    assert found["unknown"][0] == "StatusCode.NOT_FOUND"
    assert found["shape"][0] == "StatusCode.INVALID_ARGUMENT"
    assert "'x' has shape [2, 3]" in found["shape"][1]


def test_the_ready_line_tells_the_contract(service: Served) -> None:
    assert [line.split()[1] for line in service.ready] == ["double", "double", "triple"]
    fields = dict(field.split("=") for field in service.ready[0].split()[2:])
    assert fields["version"] == "1"
    assert fields["candidate"] == "fp32@onnxruntime-cpu"
    assert fields["measured"] == "elsewhere"
    with Client(service.address) as client:
        properties = client.metadata("double").properties
    assert properties["digest"].startswith(fields["digest"])
    assert properties["version"] == "1"
    assert properties["measured"] == "elsewhere"


def test_named_versions_stand_side_by_side(service: Served) -> None:
    with Client(service.address) as client:
        for version, factor in (("", 2), ("1", 2), ("2", -2)):
            prediction = client.infer("double", {"x": X}, version=version)
            assert prediction.version == (version or "1")
            np.testing.assert_array_equal(prediction.outputs["y"], factor * X)
        metadata = client.metadata("double", "2")
        assert list(metadata.versions) == ["1", "2"]
        assert metadata.properties["version"] == "2"
        with pytest.raises(grpc.RpcError) as caught:
            client.infer("double", {"x": X}, version="3")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "served: 1, 2" in caught.value.details()


def test_our_client_infers_and_models_do_not_mix(service: Served) -> None:
    with Client(service.address) as client:
        assert client.ready()
        assert client.serving("double")
        for model, factor in (("double", 2), ("triple", 3)):
            prediction = client.infer(model, {"x": X})
            assert (prediction.model, prediction.version) == (model, "1")
            np.testing.assert_array_equal(prediction.outputs["y"], factor * X)
        with pytest.raises(grpc.RpcError) as caught:
            client.infer("slow", {"x": X})
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_every_listening_socket_is_on_loopback(service: Served) -> None:
    _check_sockets(service)


def _check_sockets(service: Served) -> None:
    """Named one by one, so that a failure tells which process opened what."""
    listening = {
        f"{process.name()} {connection.laddr.ip}:{connection.laddr.port}": connection.laddr
        for process in service.family()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    served_port = int(service.address.rsplit(":", 1)[1])
    assert served_port in {address.port for address in listening.values()}
    beyond = [name for name, address in listening.items() if not _is_loopback(address.ip)]
    assert not beyond, f"listening beyond loopback: {beyond}"


def _is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def test_a_port_in_use_is_refused(service: Served, registry: Path) -> None:
    port = service.address.rsplit(":", 1)[1]
    run = refused("--registry", str(registry), "--port", port)
    assert run.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use" in run.stderr


def test_a_missing_registry_or_model_is_one_line(registry: Path, tmp_path: Path) -> None:
    for arguments in (("--registry", str(tmp_path / "none")), ("--registry", str(registry), "--model", "nobody")):
        run = refused(*arguments)
        assert run.returncode == 2
        assert len(run.stderr.splitlines()) == 1
        assert "is not published" in run.stderr or "no model is published" in run.stderr


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "registry", "double", scale(2.0), tmp_path)
    blob = tmp_path / "registry" / "blobs" / "sha256" / manifest.digest
    blob.write_bytes(blob.read_bytes() + b"!")
    run = refused("--registry", str(tmp_path / "registry"))
    assert run.returncode == 4
    assert len(run.stderr.splitlines()) == 1
    assert "its bytes have digest" in run.stderr


def test_a_model_that_answers_otherwise_than_measured_is_refused(tmp_path: Path) -> None:
    """Found in the replica, told in the command's one line, and nothing stays behind."""
    publish(tmp_path / "registry", "drifted", drifted(tmp_path), tmp_path)
    run = refused("--registry", str(tmp_path / "registry"))
    assert run.returncode == 4, run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert "golden input 0" in run.stderr


def drifted(_: Path) -> onnx.ModelProto:
    """A model whose answer changes from run to run, so that its golden answers cannot be reproduced."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("RandomUniformLike", ["x"], ["noise"]),
            helper.make_node("Add", ["x", "noise"], ["y"]),
        ],
        "drifted",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["batch", 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def refused(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "serve", *arguments], capture_output=True, text=True, timeout=90, check=False)


@pytest.mark.parametrize(
    ("number", "whom", "options"),
    [
        (signal.SIGTERM, "command", ["--route", "native"]),
        (signal.SIGINT, "group", ["--route", "public"]),
        (signal.SIGINT, "group", ["--haproxy"]),
    ],
    ids=["native", "public, by Ctrl-C", "behind HAProxy, by Ctrl-C"],
)
def test_a_signal_drains(registry: Path, number: signal.Signals, whom: str, options: list[str]) -> None:
    """NOT_SERVING first, the accepted call is answered, new ones are turned away, exit 0, and nothing is left or said twice."""
    with (
        served(registry, "--model", "slow", *options) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        _check_sockets(service)
        _check_processes(service)
        family = service.family()
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="slow"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        accepted = stub.ModelInfer.future(codec.write_request("slow", {"x": LONG}), timeout=60)
        # Calls of one connection reach the server in order: when this one is answered, the one above has been accepted.
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
        if whom == "group":
            os.killpg(service.process.pid, number)
        else:
            service.process.send_signal(number)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not accepted.done()
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(codec.write_request("slow", {"x": LONG}), timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        np.testing.assert_array_equal(codec.read_outputs(accepted.result())["y"], LONG)
        assert service.process.wait(60) == 0
        assert gone(family), [process for process in family if process.is_running()]
    _check_free(service.address)
    # The last lines are read before the block ends.
    assert [line.split()[0] for line in service.output if not line.startswith("{")] == ["READY", "stopping;"]
    events = [json.loads(line)["event"] for line in service.output if line.startswith("{")]
    assert [events.count(event) for event in ("draining", "drained")] == [1, 1]


def _check_processes(service: Served) -> None:
    """Of Ray's own helpers only those run that its core starts; nobody would ask the others."""
    running = " ".join(word for process in service.family() for word in process.cmdline())
    assert [helper for helper in ("monitor.py", "dashboard/dashboard.py") if helper in running] == []


def _check_free(address: str) -> None:
    """Ended connections may still linger on the port; a listener may not."""
    host, port = address.rsplit(":", 1)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(port)))
