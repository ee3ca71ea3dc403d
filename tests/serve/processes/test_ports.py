import os
import socket
import subprocess
import sys

import psutil
import pytest

from optimize.errors import UserError
from serve.processes import ports
from serve.processes.process_reaper import MARK
from tests.serving import free_port

LISTENER = """
import socket, sys
with socket.socket() as held:
    held.bind(("127.0.0.1", 0))
    held.listen()
    print(held.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def test_a_port_in_use_is_refused_even_if_it_can_be_shared() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = free_port(2) + 1
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use by .*process {os.getpid()}"):
            ports.free("127.0.0.1", port, 1)
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use"):
            ports.free("127.0.0.1", port - 1, 2)


def test_what_a_killed_service_left_behind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LISTENER],
        env={**os.environ, MARK: "job"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdin is not None
        port = int(orphan.stdout.readline())
        with pytest.raises(UserError) as held:
            ports.bound("127.0.0.1", port)
        monkeypatch.setattr(psutil.Process, "ppid", lambda _: 1)
        with pytest.raises(UserError) as left:
            ports.bound("127.0.0.1", port)
        orphan.stdin.close()
    assert f"(process {orphan.pid}); choose another with --port" in str(held.value)
    assert f"(process {orphan.pid}, left behind by a service that was killed)" in str(left.value)


def test_free_ports_are_found_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        plain, offered = ports._probe, iter([taken - 1])
        monkeypatch.setattr(
            ports, "_probe", lambda host, port, _: plain(host, port, "") if port else next(offered, plain(host, 0, ""))
        )
        first = ports.free("127.0.0.1", 0, 2)
    assert first != taken - 1


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1:9000"):
        ports.free("192.0.2.1", 9000, 1)


def test_ports_beyond_the_last_are_refused_with_the_option_to_change() -> None:
    with pytest.raises(
        UserError, match="port 65536 was asked for, and the last is 65535; choose a lower one with --metrics-port"
    ):
        ports.free("127.0.0.1", 65535, 2, "--metrics-port")
