import dataclasses
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from optimize.errors import UserError
from serve import cli
from serve.choices import Choice
from serve.plan import Plan
from tests.certificates import issue
from tests.published import publish, scale
from tests.serving import COMMAND


def test_replicas_without_a_core_each_are_refused(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "registry", "double", scale(2.0), tmp_path)
    cli.check_cores([manifest], 2, 2)
    cli.check_cores([manifest], 1, 0)
    with pytest.raises(UserError, match="3 replicas of 1 threads need 3 cores, this machine has 2; wanted at most 2"):
        cli.check_cores([manifest], 3, 2)


def test_a_port_in_use_is_refused_whoever_shares_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use"):
            cli.free_ports("127.0.0.1", port, 1)
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use"):
            cli.free_ports("127.0.0.1", port - 1, 2)


def test_free_ports_are_found_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        plain, offered = cli._bind, iter([taken - 1])
        monkeypatch.setattr(
            cli, "_bind", lambda host, port: plain(host, port) if port else next(offered, plain(host, 0))
        )
        first = cli.free_ports("127.0.0.1", 0, 2)
    assert first != taken - 1


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1:9000"):
        cli.free_ports("192.0.2.1", 9000, 1)


def test_the_ready_line_names_every_replicas_address(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "registry", "double", scale(2.0), tmp_path)
    plan = Plan(str(tmp_path), (Choice("double", 1),), "127.0.0.1", 9000, replicas=2)
    line = cli.ready_line(manifest, plan, measured_here=False)
    assert line.startswith("READY double version=1 candidate=fp32@onnxruntime-cpu digest=")
    assert " measured=elsewhere address=127.0.0.1:9000,127.0.0.1:9001 " in f"{line} "


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("serve.cli", ["ray", "grpc", "onnxruntime", "numpy"]),
        ("serve.client", ["ray", "onnxruntime", "torch"]),
        ("serve.codec", ["ray", "onnxruntime", "torch", "grpc"]),
    ],
)
def test_what_a_module_loads(module: str, heavy: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--host", "0.0.0.0"), "--host 0.0.0.0 can be reached from other machines, and without TLS"),
        (("--host", "::"), "give --tls-cert and --tls-key, or --insecure"),
        (("--tls-cert", "{server}"), "TLS was asked for without --tls-key"),
        (("--tls-cert", "{server}", "--tls-key", "{client_key}"), "is not the key of"),
        (("--tls-cert", "{server}", "--tls-key", "none.pem"), "none.pem: cannot be read: No such file or directory"),
        (
            ("--tls-cert", "{server}", "--tls-key", "{server_key}", "--client-ca", "{server_key}"),
            "holds no certificate",
        ),
        (("--tokens", "none.txt"), "none.txt: cannot be read: No such file or directory; make a tokens file"),
        (("--tokens", "{server}"), "line 1: has 2 fields; wanted a name"),
    ],
)
def test_what_would_not_be_safe_is_one_line_before_anything_listens(
    tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    certificates = issue(tmp_path)
    files = {field.name: getattr(certificates, field.name) for field in dataclasses.fields(certificates)}
    run = subprocess.run(
        [*COMMAND, "serve", *(argument.format(**files) for argument in arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 2, run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert problem in run.stderr
