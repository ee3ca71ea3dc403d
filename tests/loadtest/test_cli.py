import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from optimize.registry import Registry
from serve.access import auth_tokens, tls
from serve.access.auth import Authenticator
from tests import published
from tests.certificates import issue
from tests.loadtest import service
from tests.serving import bare

BUDGETS = """
schema = 1
[models.toy]
source = "toy.onnx"
[models.toy.dims]
batch = { min = 1, opt = 1, max = 8 }
[models.toy.throughput]
qps = 100
p99_ms = 2000.0
[models.still]
source = "still.onnx"
[models.still.size]
mb = 1.0
"""


@pytest.fixture
def budgets(tmp_path):
    path = tmp_path / "budgets.toml"
    path.write_text(BUDGETS)
    return path


def start(budgets, *arguments, **environment):
    return subprocess.Popen(
        [
            *(sys.executable, "-c", "from optimize.cli import main; main()", "loadtest"),
            *(*arguments, "--budget", str(budgets), "--report", str(budgets.parent / "report")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def loadtest(budgets, *arguments):
    with start(budgets, *arguments) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_too_few_calls_exit_3_and_say_how_many_are_wanted(budgets):
    with service.running() as toy:
        code, out, err = loadtest(budgets, toy.target, "--model", "toy", "--duration", "2")
    assert code == 3, out + err
    assert out.startswith("INCONCLUSIVE: toy at ")
    assert "16,000" in out
    assert "leave out --duration" in err
    assert (budgets.parent / "report" / "report.md").exists()


@pytest.fixture
def protected(tmp_path):
    """A service with mutual TLS and tokens: its address, the certificates, and a token for `toy` alone."""
    published.publish(tmp_path / "registry", "toy", published.identity(), tmp_path)
    registry = Registry(tmp_path / "registry")

    async def fill(models):
        await models.load(registry, registry.load("toy"))

    files = issue(tmp_path)
    token = auth_tokens.add(tmp_path / "tokens", "ci", ["toy"])
    credentials = tls.server_credentials(tls.TlsFiles(files.server, files.server_key, files.ca))
    with bare(
        ["toy"], fill, Authenticator(auth_tokens.AuthTokensFile(tmp_path / "tokens").current), credentials
    ) as server:
        yield server.address, files, token


@pytest.mark.parametrize("how", ["file", "variable"])
def test_a_protected_service_is_tested_with_certificates_and_a_token(budgets, protected, how):
    address, files, token = protected
    (budgets.parent / "token").write_text(f"{token}\n")
    with_token = ("--token-file", str(budgets.parent / "token")) if how == "file" else ()
    with start(
        *(budgets, address, "--model", "toy", "--duration", "1"),
        *("--tls-ca", files.ca, "--tls-cert", files.client, "--tls-key", files.client_key, *with_token),
        **({"PROVESERVE_TOKEN": token} if how == "variable" else {}),
    ) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 3, out + err
    assert json.loads((budgets.parent / "report" / "report.json").read_text())["codes"] == {"OK": 100}
    for path in (budgets.parent / "report").iterdir():
        assert token.encode() not in path.read_bytes()


def test_a_protected_service_turns_away_who_has_no_token(budgets, protected):
    address, files, _ = protected
    certificates = ("--tls-ca", files.ca, "--tls-cert", files.client, "--tls-key", files.client_key)
    (budgets.parent / "token").write_text("wrong")
    for arguments in ((), ("--token-file", budgets.parent / "token"), ("--token-file", budgets.parent / "none")):
        code, _, err = loadtest(budgets, address, "--model", "toy", *certificates, *arguments)
        assert code == 2
        (line,) = err.splitlines()
        assert "token" in line
    code, _, err = loadtest(budgets, address, "--model", "toy")
    assert code == 4
    assert "whether it wants TLS" in err


def test_a_service_that_fails_exits_1(budgets):
    with service.running(service.Faults(error_every=2)) as toy:
        code, out, _ = loadtest(budgets, toy.target, "--model", "toy", "--duration", "3", "--arrivals", "constant")
    assert code == 1
    assert "INTERNAL 150" in out


@pytest.mark.slow
def test_a_service_within_its_budget_exits_0_after_8_blocks_of_2000_calls(budgets):
    budgets.write_text(BUDGETS.replace("qps = 100", "qps = 400"))
    with service.running() as toy:
        code, out, err = loadtest(budgets, toy.target, "--model", "toy")
    assert code == 0, out + err
    assert "OK 16,000" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["127.0.0.1:9", "--model", "other"], "has no model 'other'; wanted one of toy, still"),
        (["127.0.0.1:9", "--model", "still"], "models.still has no throughput budget to test"),
        (["127.0.0.1", "--model", "toy"], "'127.0.0.1' is not an address; wanted HOST:PORT"),
        (["127.0.0.1:9", "--model", "toy", "--rate", "0"], "--rate 0: wanted a number above 0"),
        (["127.0.0.1:9", "--model", "toy", "--duration", "-1"], "--duration -1: wanted a number above 0"),
        (["127.0.0.1:9", "--model", "toy", "--rate", "1e12"], "wanted at most 10,000,000: lower --rate or --duration"),
        (["127.0.0.1:9", "--model", "toy", "--duration", "1e12"], "wanted at most 10,000,000: lower --rate or"),
        (["127.0.0.1:9", "--model", "toy", "--timeout", "inf"], "--timeout inf: wanted a number above 0"),
    ],
)
def test_what_the_user_must_fix_exits_2_with_one_line(budgets, arguments, message):
    code, out, err = loadtest(budgets, *arguments)
    assert code == 2
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_no_service_exits_4_with_one_line(budgets):
    with service.running() as toy:
        target = toy.target
    code, out, err = loadtest(budgets, target, "--model", "toy")
    assert code == 4
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"error: no service answers at {target}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process_and_no_file(budgets, tmp_path, number):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (
        service.running() as toy,
        start(budgets, toy.target, "--model", "toy", TMPDIR=str(scratch)) as process,
    ):
        generator = _generator_under_load(process, toy)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("interrupted")
    assert not generator.is_running()
    assert list(scratch.iterdir()) == []
    assert list((tmp_path / "report").iterdir()) == []


def test_the_generator_dies_with_the_command(budgets, tmp_path):
    with (
        service.running() as toy,
        start(budgets, toy.target, "--model", "toy", TMPDIR=str(tmp_path)) as process,
    ):
        generator = _generator_under_load(process, toy)
        process.kill()
        psutil.wait_procs([generator], timeout=10)
    assert not generator.is_running() or generator.status() == psutil.STATUS_ZOMBIE


def _generator_under_load(process: subprocess.Popen[str], toy: service.Toy) -> psutil.Process:
    deadline = time.monotonic() + 30
    while len(toy.requests) < 20:
        assert time.monotonic() < deadline, "no load"
        assert process.poll() is None
        time.sleep(0.05)
    (generator,) = [child for child in psutil.Process(process.pid).children() if "loadtest.user" in child.cmdline()]
    return generator


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("loadtest.cli", ["numpy", "grpc", "locust", "loadtest.run"]),
        ("loadtest.run", ["locust", "gevent", "ray", "torch", "onnx", "onnxruntime", "optimize.runtime"]),
    ],
)
def test_importing_loads_nothing_heavy(module, absent):
    code = f"import sys, {module}; print(*[name for name in {absent} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
