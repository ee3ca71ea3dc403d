"""Start services for tests: a bare grpc.aio server in this process, or `optimize serve` on Ray in one of its own."""

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil

from optimize.errors import UserError
from optimize.registry import Registry
from serve.access.auth import Authenticator
from serve.models.hosting import Models
from serve.processes import ports
from serve.transport.limits import MAX_MESSAGE_BYTES, SERVER_LIMITS
from serve.transport.native_handlers import add_services
from serve.transport.reflection import add_reflection
from serve.transport.servicer import Servicer
from tests.serve import log_lines

COMMAND = (str(Path(sys.executable).with_name("optimize")),)
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
PATIENCE_S = 20.0
FIRST_PORT, LAST_PORT = 10_000, 32_767
MOST_REPLICAS = 4
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls unnoticed
    *SERVER_LIMITS,
)


def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.02)


@dataclass
class Bare:
    """A bare server: its address, its servicer, and a way to run something on its loop."""

    address: str
    servicer: Servicer
    loop: asyncio.AbstractEventLoop

    @property
    def models(self) -> Models:
        return self.servicer.models

    def spawn(self, coroutine: Any) -> Future:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Any) -> Any:
        return self.spawn(coroutine).result(timeout=30)


@contextlib.contextmanager
def bare(
    names: list[str],
    fill: Callable[[Models], Awaitable[None]],
    authenticator: Authenticator | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[Bare]:
    """The servicer behind a plain grpc.aio server; `fill` opens models on its loop, after the server has started."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="bare-server")
    thread.start()

    async def start() -> tuple[grpc.aio.Server, Servicer, int]:
        models = Models(names)
        servicer = Servicer(models, authenticator)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        add_services(servicer, server)
        add_reflection(servicer.authenticator, server)
        address = "127.0.0.1:0"
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        await server.start()
        await fill(models)
        return server, servicer, port

    async def stop() -> None:
        await servicer.models.drain()
        await server.stop(grace=2)

    try:
        server, servicer, port = asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=30)
        try:
            yield Bare(f"127.0.0.1:{port}", servicer, loop)
        finally:
            asyncio.run_coroutine_threadsafe(stop(), loop).result(timeout=30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def free_port(count: int = 1) -> int:
    """The first of so many free ports in a row, below the range for outgoing connections, so that no other test takes one."""
    while True:
        # In every worker, pytest-randomly seeds `random` with the same number.
        first = random.SystemRandom().randrange(FIRST_PORT, LAST_PORT - count)
        with contextlib.suppress(UserError):
            return ports.free("127.0.0.1", first, count)


@dataclass
class Served:
    """A running `optimize serve`."""

    process: subprocess.Popen[str]
    address: str
    ready: list[str]
    output: list[str]

    def family(self) -> list[psutil.Process]:
        """The command's process and every process below it."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def served(registry: Path, *arguments: str) -> Iterator[Served]:
    """`optimize serve` on a free port, until the block ends; its log is then checked against the golden lines."""
    models = arguments.count("--model") or len(Registry(registry).models())
    port = free_port(2 * MOST_REPLICAS)
    listening = ["--port", str(port), "--metrics-port", str(port + MOST_REPLICAS)]
    with started([*COMMAND, "serve", "--registry", str(registry), *listening, *arguments], registry, models) as service:
        yield service
    log_lines.check(service.output)


@contextlib.contextmanager
def started(command: list[str], folder: Path, models: int) -> Iterator[Served]:
    """A serve command that has said READY for so many models; in a process group of its own, as a terminal would start it."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        cwd=folder,
    )
    output: list[str] = []
    ready_or_ended = threading.Event()
    reader = threading.Thread(target=_read, args=(process, output, models, ready_or_ended))
    reader.start()
    try:
        assert ready_or_ended.wait(START_TIMEOUT_S), f"not ready in {START_TIMEOUT_S} s:\n" + "".join(output)
        ready = [line for line in output if line.startswith("READY ")]
        assert ready, f"ended with {process.wait()}:\n" + "".join(output)
        address = ready[0].split("address=")[1].split()[0]
        yield Served(process, address, ready, output)
    finally:
        family = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for leftover in psutil.wait_procs(family, timeout=10)[1]:
            leftover.kill()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def _read(process: subprocess.Popen[str], output: list[str], models: int, started: threading.Event) -> None:
    """Collect the lines; `started` is set by the last model's READY line, or by the end."""
    assert process.stdout is not None
    for line in process.stdout:
        output.append(line)
        models -= line.startswith("READY ")
        if models == 0:
            started.set()
    started.set()


def gone(processes: list[psutil.Process], timeout_s: float = 15.0) -> bool:
    """Whether all of them end in time; a zombie that only its parent can bury has ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not [process for process in processes if _alive(process)]:
            return True
        time.sleep(0.1)
    return False


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
