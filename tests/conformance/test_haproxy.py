"""One address for two replicas: what the running service does behind HAProxy, under load and when something is killed."""

import contextlib
import ipaddress
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from optimize.registry import Registry
from serve.processes import ports
from serve.processes.process_reaper import MARK
from tests.conformance.load import under_load
from tests.conformance.test_faults import (
    REPOSITORY,
    WHOLE_AGAIN_S,
    call_patiently,
    processes,
    replicas,
    wait_failing,
    wait_version,
)
from tests.published import publish, scale
from tests.serving import Served, gone, served, started

CALLS = "proveserve_calls_total{"
SPREAD_S = 20.0
FOUND_OUT_S = 30.0
"""Three checks, each 2 s after the last and given up after 5 s, and some room for a busy machine."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scaled`, whose version N multiplies by N; version 1 is current."""
    folder = tmp_path_factory.mktemp("models")
    for factor in (1.0, 2.0):
        publish(folder / "registry", "scaled", scale(factor), folder)
    Registry(folder / "registry").promote("scaled", 1)
    return folder / "registry"


@pytest.fixture(scope="module")
def service(registry: Path) -> Iterator[Served]:
    with served(registry, "--haproxy", "--replicas", "2") as running:
        yield running


def answers(service: Served) -> list[int]:
    """Predictions that each replica answered, by its metrics."""
    addresses = service.ready[0].split("metrics=")[1].split()[0].split(",")
    found = []
    for address in addresses:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
            lines = [line for line in page.read().decode().splitlines() if line.startswith(CALLS)]
        found.append(int(sum(float(line.split()[-1]) for line in lines if 'method="ModelInfer"' in line)))
    return found


def test_the_calls_of_one_channel_reach_both_replicas(service: Served) -> None:
    before = answers(service)
    with under_load([service.address], "scaled") as load:
        load.wait(lambda calls: len(calls) >= 400, SPREAD_S)
    spread = [after - earlier for after, earlier in zip(answers(service), before, strict=True)]
    assert load.codes().keys() == {"OK"}
    assert sum(spread) == len(load.ended)
    assert min(spread) > len(load.ended) / 4, spread


def test_every_listening_socket_is_on_loopback(service: Served) -> None:
    listening = {
        (process.name(), connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for process in service.family()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    host, port = service.address.rsplit(":", 1)
    assert ("haproxy", host, int(port)) in listening
    assert len([name for name, *_ in listening if name == "haproxy"]) == 1
    assert [found for found in listening if not ipaddress.ip_address(found[1]).is_loopback] == []


def test_another_version_takes_over_without_a_failed_call(service: Served, registry: Path) -> None:
    try:
        with under_load([service.address], "scaled") as load:
            wait_version(load, "1")
            Registry(registry).promote("scaled", 2)
            wait_version(load, "2")
    finally:
        Registry(registry).promote("scaled", 1)
    assert load.codes().keys() == {"OK"}
    assert load.versions() == {("1", 1.0), ("2", 2.0)}


def test_a_killed_replica_costs_a_retrying_caller_nothing_and_a_killed_command_leaves_nothing_on_the_port(
    registry: Path,
) -> None:
    with served(registry, "--haproxy", "--replicas", "2") as service:
        with ThreadPoolExecutor() as pool, under_load([service.address], "scaled") as load:
            healed = threading.Event()
            patient = pool.submit(call_patiently, service.address, healed)
            try:
                lost = replicas(service)[0]
                lost.kill()
                wait_back(service, lost)
            finally:
                healed.set()
            assert patient.result() > 0
        codes = load.codes()
        assert codes.keys() <= {"OK", "UNAVAILABLE"}
        assert codes["UNAVAILABLE"] <= 8, "one for each call that was with the lost replica"
        assert load.versions() == {("1", 1.0)}
        kill_command(service)
    host, port = service.address.rsplit(":", 1)
    with ports.bound(host, int(port)):
        pass


def kill_command(service: Served) -> None:
    """What it started, the replacement of a replica included, ends with it, since all bear its mark."""
    family = service.family()
    marks = {process.name(): process.environ().get(MARK) for process in family}
    assert marks["haproxy"]
    assert {marks["haproxy"]} == {mark for name, mark in marks.items() if name.startswith("ray::")}
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    assert gone(family), [process for process in family if process.is_running()]


def wait_back(service: Served, lost: psutil.Process) -> None:
    """Until a replacement answers calls, too."""
    began = time.monotonic()
    while not has_both(service, lost):
        assert time.monotonic() - began < WHOLE_AGAIN_S, "".join(service.output)
        time.sleep(0.1)


def has_both(service: Served, lost: psutil.Process) -> bool:
    running = {process.pid for process in replicas(service)} - {lost.pid}
    try:
        return len(running) == 2 and min(answers(service)) > 0
    except OSError:  # the replacement does not tell its metrics yet
        return False


@pytest.mark.slow
def test_the_calls_of_a_replica_that_hangs_are_given_up_before_their_deadline(registry: Path) -> None:
    with (
        served(registry, "--haproxy", "--replicas", "2") as service,
        under_load([service.address], "scaled", timeout_s=WHOLE_AGAIN_S) as load,
    ):
        lost = replicas(service)[0]
        lost.send_signal(signal.SIGSTOP)
        load.wait(lambda _: any(" is DOWN" in line for line in service.output), FOUND_OUT_S)
        wait_back(service, lost)
    assert load.codes().keys() <= {"OK", "UNAVAILABLE"}


@pytest.mark.slow
def test_a_lost_node_costs_a_retrying_caller_nothing(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    command = [sys.executable, "-m", "tests.conformance.two_nodes", str(registry), str(tmp_path), "--haproxy"]
    with (
        started(command, REPOSITORY, models=1) as service,
        ThreadPoolExecutor() as pool,
        under_load([service.address], "scaled") as load,
    ):
        (controller,) = processes(service, "ServeController")
        (node,) = (node for node in processes(service, "raylet/raylet") if node.pid != controller.ppid())
        (lost,) = (replica for replica in replicas(service) if replica.ppid() == node.pid)
        healed = threading.Event()
        patient = pool.submit(call_patiently, service.address, healed)
        try:
            for process in (node, *node.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            wait_back(service, lost)
        finally:
            healed.set()
        assert patient.result() > 0
    assert load.codes().keys() <= {"OK", "UNAVAILABLE"}
    assert load.versions() == {("1", 1.0)}


def test_a_killed_haproxy_comes_back_at_its_address(service: Served) -> None:
    with under_load([service.address], "scaled") as load:
        (process,) = processes(service, "haproxy.cfg")
        process.kill()
        wait_failing(load)
        load.wait(lambda calls: any(call.code == "OK" for call in calls), WHOLE_AGAIN_S)
    assert load.codes().keys() == {"OK", "UNAVAILABLE"}
