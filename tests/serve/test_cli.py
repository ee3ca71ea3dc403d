import dataclasses
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from optimize.errors import UserError
from serve import cli
from serve.access.tls import TlsFiles
from serve.plan import Frontend, Plan
from serve.served_versions import ServedModel
from tests.certificates import issue
from tests.published import publish, scale
from tests.serving import COMMAND, free_port


def test_replicas_without_a_core_each_are_refused(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "registry", "double", scale(2.0), tmp_path)
    cli.check_fits([manifest], 2, None, 2)
    cli.check_fits([manifest], 1, None, 0)
    with pytest.raises(UserError, match="3 replicas of 1 threads need 3 cores, this machine has 2; wanted at most 2"):
        cli.check_fits([manifest], 3, None, 2)


def test_the_ready_line_names_every_replicas_address(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "registry", "double", scale(2.0), tmp_path)
    plan = Plan(str(tmp_path), (ServedModel("double", 1),), "127.0.0.1", 9000, replicas=2)
    line = cli.ready_line(manifest, plan, measured_here=False)
    assert line.startswith("READY double version=1 candidate=fp32@onnxruntime-cpu digest=")
    assert " measured=elsewhere address=127.0.0.1:9000,127.0.0.1:9001 " in f"{line} "
    behind = msgspec.structs.replace(plan, front=Frontend("::", 443))
    assert " address=[::]:443 " in cli.ready_line(manifest, behind, measured_here=False)


def test_behind_haproxy_the_replicas_are_on_loopback_in_the_clear_at_the_ports_after_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = TlsFiles(Path("/cert"), Path("/key"))
    plan = cli.with_ports(Plan("", (), "0.0.0.0", 0, replicas=2, tls=files), in_front=True)
    assert plan.front is not None
    assert (plan.front.host, plan.front.tls) == ("0.0.0.0", files)
    assert (plan.host, plan.port, plan.tls) == ("127.0.0.1", plan.front.port + 1, None)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(tmp_path / "none"))  # as where there is none at all
    with pytest.raises(UserError, match="--haproxy was asked for, and no haproxy was found; install it"):
        cli.with_ports(plan, in_front=True)


@pytest.mark.parametrize(("ahead", "in_front"), [(0, False), (1, False), (-1, False), (2, True)])
def test_metrics_at_the_ports_of_calls_are_refused(ahead: int, in_front: bool) -> None:
    first = free_port(5) + 1
    plan = Plan("", (), "127.0.0.1", first, replicas=2, metrics_port=first + ahead)
    with pytest.raises(UserError, match=f"are among those of calls, {first} to {first + 1 + in_front}; choose others"):
        cli.with_ports(plan, in_front=in_front)
    distinct = msgspec.structs.replace(plan, metrics_port=0)
    assert cli.with_ports(distinct, in_front=in_front).metrics_port


def test_a_config_for_a_cluster_takes_no_haproxy(tmp_path: Path) -> None:
    publish(tmp_path / "registry", "double", scale(2.0), tmp_path)
    asked = ("--registry", "registry", "--config-out", "serve.yaml", "--haproxy")
    run = subprocess.run(
        [*COMMAND, "serve", *asked], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("error: --config-out takes no --haproxy")
    assert not (tmp_path / "serve.yaml").exists()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("serve.cli", ["ray", "grpc", "onnxruntime", "numpy"]),
        ("serve.client", ["ray", "onnxruntime", "torch"]),
        ("serve.client.codec", ["ray", "onnxruntime", "torch", "grpc"]),
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
def test_an_unsafe_service_is_refused_in_one_line_before_it_listens(
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
