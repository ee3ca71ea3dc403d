"""What a running service does when its processes are killed or stopped, or another version is published: on Ray, under load."""

import contextlib
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from optimize.registry import Registry
from serve.client import Client
from serve.processes import ports
from tests.conformance.load import Load, under_load
from tests.published import publish, scale
from tests.serving import COMMAND, Served, served, started

REPOSITORY = Path(__file__).parents[2]
WHOLE_AGAIN_S = 60.0
"""How long the service may take to heal by itself."""

SWAP_S = 30.0
"""How long another version may take to answer: it is looked for every few seconds, and a busy machine takes its time."""

STOPPED_S = 40.0
"""How long a service may take to stop that cannot be drained whole: Ray gives a replica up that was silent for 20 s."""

FAILING_S = 30.0
"""How long a call to a lost replica may take to fail."""


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """`scaled`, whose version N multiplies by N, so that an answer tells which version gave it; there is one yet."""
    publish(tmp_path / "registry", "scaled", scale(1.0), tmp_path)
    return tmp_path / "registry"


@pytest.fixture
def pair(registry: Path) -> Iterator[Served]:
    with served(registry, "--replicas", "2") as service:
        yield service


def addresses(service: Served) -> list[str]:
    return service.ready[0].split("address=")[1].split()[0].split(",")


def processes(service: Served, title: str) -> list[psutil.Process]:
    """Processes of the service that bear this title."""
    found = []
    for process in service.family():
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def replicas(service: Served) -> list[psutil.Process]:
    return processes(service, "ServeReplica")


def wait_failing(load: Load) -> None:
    """Until a call has failed, be it before this was asked: of few callers, all may fail within a moment, and then wait."""
    load.wait(lambda _: load.codes().keys() != {"OK"}, FAILING_S)


def wait_whole(load: Load, service: Served, since: float) -> None:
    """Until every address answers, and nothing but answers, within the time that the service has to heal."""

    def latest() -> set[tuple[str, str]]:
        return {(call.address, call.code) for call in load.ended[-5000:] if call.at > time.monotonic() - 1.0}

    whole = {(address, "OK") for address in addresses(service)}
    while (found := latest()) != whole:
        assert time.monotonic() - since < WHOLE_AGAIN_S, found
        time.sleep(0.1)


def wait_version(load: Load, version: str) -> None:
    """Until every answer is of this version."""
    began = time.monotonic()
    while {call.version for call in load.ended[-200:]} != {version}:
        assert time.monotonic() - began < SWAP_S, load.ended[-1]
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("route", "count"),
    [
        ("native", 1),
        pytest.param("native", 2, marks=pytest.mark.slow),
        pytest.param("public", 1, marks=pytest.mark.slow),
    ],
)
def test_another_version_takes_over_without_a_failed_call(
    registry: Path, tmp_path: Path, route: str, count: int
) -> None:
    second, bad = (publish(registry, "scaled", scale(factor), tmp_path) for factor in (2.0, 3.0))
    blob = registry / "blobs" / "sha256" / bad.digest
    blob.write_bytes(blob.read_bytes() + b"!")
    Registry(registry).promote("scaled", 1)
    with (
        served(registry, "--route", route, "--replicas", str(count)) as service,
        Client(addresses(service)[0]) as client,
        under_load(addresses(service), "scaled") as load,
    ):
        wait_version(load, "1")
        Registry(registry).promote("scaled", 2)
        wait_version(load, "2")
        assert client.metadata("scaled").properties["digest"] == second.digest
        subprocess.run([*COMMAND, "rollback", "scaled", "--registry", str(registry)], check=True, capture_output=True)
        wait_version(load, "1")
        Registry(registry).promote("scaled", 3)
        load.wait(lambda _: sum("update_refused" in line for line in service.output) == count, SWAP_S)
        assert {call.version for call in load.ended[-200:]} == {"1"}
        publish(registry, "scaled", scale(4.0), tmp_path)
        wait_version(load, "4")
    assert load.codes().keys() == {"OK"}
    assert load.versions() == {("1", 1.0), ("2", 2.0), ("4", 4.0)}


def test_a_killed_replica_is_replaced_at_the_same_address(pair: Served) -> None:
    first, second = addresses(pair)
    assert int(second.rsplit(":", 1)[1]) == int(first.rsplit(":", 1)[1]) + 1
    with (
        ThreadPoolExecutor() as pool,
        under_load([first, second], "scaled") as load,
    ):
        killed, healed = time.monotonic(), threading.Event()
        patient = [pool.submit(call_patiently, address, healed) for address in (first, second)]
        try:
            replicas(pair)[0].kill()
            wait_failing(load)
            wait_whole(load, pair, killed)
        finally:
            healed.set()
        assert all(calls.result() > 0 for calls in patient)
    assert load.codes().keys() == {"OK", "UNAVAILABLE"}
    assert len({call.address for call in load.ended if call.code != "OK"}) == 1
    assert load.versions() == {("1", 1.0)}


def call_patiently(address: str, healed: threading.Event) -> int:
    """Call until the service is healed, again where a call is refused for now; the number of calls, all of which were answered."""
    calls = 0
    with Client(address, timeout_s=WHOLE_AGAIN_S, max_attempts=1_000) as client:
        while not healed.is_set() or not calls:
            outputs = client.infer("scaled", {"x": np.ones((1, 4), np.float32)}).outputs
            np.testing.assert_array_equal(outputs["y"], np.ones((1, 4), np.float32))
            calls += 1
    return calls


@pytest.mark.slow
def test_the_only_replica_is_killed(registry: Path) -> None:
    with served(registry) as service, under_load([service.address], "scaled") as load:
        killed = time.monotonic()
        replicas(service)[0].kill()
        wait_failing(load)
        wait_whole(load, service, killed)
    assert load.codes().keys() == {"OK", "UNAVAILABLE"}


@pytest.mark.slow
def test_a_replica_that_hangs_is_replaced(pair: Served) -> None:
    with under_load(addresses(pair), "scaled", timeout_s=5.0) as load:
        stopped = time.monotonic()
        replicas(pair)[0].send_signal(signal.SIGSTOP)
        wait_failing(load)
        wait_whole(load, pair, stopped)
    assert load.codes().keys() <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert load.versions() == {("1", 1.0)}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_service_with_a_replica_that_hangs_stops_in_order(registry: Path, count: int) -> None:
    with served(registry, "--replicas", str(count)) as service:
        replicas(service)[0].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < STOPPED_S
        assert not [line for line in service.output if "Traceback" in line]
        assert len(events(service, "drain_failed")) == 1
        assert len(events(service, "drained")) == count - 1


@pytest.mark.slow
def test_a_service_without_a_replica_stops_in_order(registry: Path) -> None:
    with served(registry) as service:
        (blob,) = (registry / "blobs" / "sha256").glob(f"{Registry(registry).load('scaled').digest}*")
        blob.write_bytes(b"damaged")
        replicas(service)[0].kill()
        began = time.monotonic()
        while not events(service, "start_failed"):
            assert time.monotonic() - began < WHOLE_AGAIN_S
            time.sleep(0.1)
        assert service.stop() == 0
        assert not [line for line in service.output if "Traceback" in line]


def events(service: Served, event: str) -> list[str]:
    return [line for line in service.output.copy() if f'"event": "{event}"' in line]


@pytest.mark.slow
def test_a_ray_that_cannot_start_is_one_line(registry: Path) -> None:
    run = subprocess.run(
        [*COMMAND, "serve", "--registry", str(registry), "--port", "0"],
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (0, 0)
        ),  # nothing can be written, as on a full disk
        capture_output=True,
        text=True,
        timeout=2 * WHOLE_AGAIN_S,
        check=False,
    )
    assert run.returncode == 4
    assert run.stderr.startswith("error: Ray does not start on this machine: ")
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_killed_controller_comes_back_and_heals(pair: Served) -> None:
    with under_load(addresses(pair), "scaled") as load:
        (controller,) = processes(pair, "ServeController")
        controller.kill()
        began = time.monotonic()
        while [process.pid for process in processes(pair, "ServeController")] in ([], [controller.pid]):
            assert time.monotonic() - began < WHOLE_AGAIN_S
            time.sleep(0.2)
        assert load.codes().keys() == {"OK"}
        killed = time.monotonic()
        replicas(pair)[0].kill()
        wait_failing(load)
        wait_whole(load, pair, killed)
    assert load.versions() == {("1", 1.0)}


@pytest.mark.slow
def test_a_port_that_is_taken_while_the_service_starts_is_one_line(registry: Path) -> None:
    first = ports.free("127.0.0.1", 0, 2)
    command = [*COMMAND, "serve", "--registry", str(registry), "--replicas", "2", "--port", str(first)]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process,
        socket.socket() as other,
    ):
        began = time.monotonic()
        while not any("raylet" in child.name() for child in psutil.Process(process.pid).children(recursive=True)):
            assert time.monotonic() - began < WHOLE_AGAIN_S  # Ray starts once the command has found its ports free
            time.sleep(0.05)
        other.bind(("127.0.0.1", first + 1))
        other.listen()
        _, stderr = process.communicate(timeout=2 * WHOLE_AGAIN_S)
    assert process.returncode == 4
    assert stderr.startswith(
        f"error: one of 127.0.0.1:{first}, 127.0.0.1:{first + 1} was taken while the service started"
    )
    assert len(stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_lost_node_is_done_without(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    command = [sys.executable, "-m", "tests.conformance.two_nodes", str(registry), str(tmp_path)]
    with started(command, REPOSITORY, models=1) as service, under_load(addresses(service), "scaled") as load:
        (controller,) = processes(service, "ServeController")
        nodes = processes(service, "raylet/raylet")
        (lost,) = (node for node in nodes if node.pid != controller.ppid())
        assert {replica.ppid() for replica in replicas(service)} == {node.pid for node in nodes}
        killed = time.monotonic()
        for process in (lost, *lost.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_failing(load)
        wait_whole(load, service, killed)
    assert load.codes().keys() == {"OK", "UNAVAILABLE"}
    assert len({call.address for call in load.ended if call.code != "OK"}) == 1
    assert load.versions() == {("1", 1.0)}


def wide(factor: float, width: int = 3000) -> onnx.ModelProto:
    """x[batch, 4] -> y = factor * x, by way of a matrix of 36 MB."""
    weight = np.zeros((4, width), np.float32)
    weight[:, :4] = np.eye(4, dtype=np.float32)
    square = np.eye(width, dtype=np.float32)
    back = factor * weight.T
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "spread"], ["wide"]),
            helper.make_node("MatMul", ["wide", "square"], ["mixed"]),
            helper.make_node("MatMul", ["mixed", "back"], ["y"]),
        ],
        "wide",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.tobytes(), raw=True)
            for name, array in (("spread", weight), ("square", square), ("back", back))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.slow
def test_memory_is_flat_over_many_updates(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    for factor in (1.0, 2.0):
        publish(root, "scaled", wide(factor), tmp_path)
    sizes: list[float] = []
    descriptors: list[int] = []
    with served(root) as service, under_load([service.address], "scaled", callers=2) as load:
        (replica,) = replicas(service)
        for update in range(12):
            version = 1 + update % 2
            Registry(root).promote("scaled", version)
            wait_version(load, str(version))
            time.sleep(1)  # the old version's last answer is out, and it is closed
            sizes.append(replica.memory_info().rss / 1e6)
            descriptors.append(replica.num_fds())
    assert load.codes().keys() == {"OK"}
    assert max(sizes[6:]) < 1.1 * max(sizes[:3]), sizes
    assert max(descriptors[6:]) <= max(descriptors[:3]) + 2, descriptors
