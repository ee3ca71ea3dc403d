"""What happens if the installed Ray or gRPC no longer has a name that the service replaces, or does not use it any more."""

import ast
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import serve
from optimize.errors import ProveserveError
from serve import patches
from serve.patches import Patch, Purpose
from serve.plan import Plan
from serve.processes.signals import Interrupts
from serve.rayserve import ray_patches
from serve.transport import grpc_patches

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ray declares its own models in a way that pydantic means to drop
    from serve.rayserve import local_ray, service

PATCHES = (*ray_patches.PATCHES, *grpc_patches.PATCHES)
APPLIED_BY: dict[Callable[[], None], tuple[Patch, ...]] = {
    ray_patches.start_fewer_processes: (ray_patches.MONITOR, ray_patches.LOG_MONITOR, ray_patches.API_SERVER),
    ray_patches.prepare_worker: (grpc_patches.INSECURE_PORT, ray_patches.PROXIES, ray_patches.RELEASED_PORTS),
    lambda: ray_patches.redirect_daemon_output(print): (ray_patches.DAEMON_OUTPUT,),
    lambda: ray_patches.configure_server("127.0.0.1"): (
        *(ray_patches.ADDRESS, ray_patches.SERVER),
        *(ray_patches.SERVES_OWN_SERVICE, ray_patches.SERVES_REFLECTION),
    ),
    grpc_patches.accept_many: (grpc_patches.ACCEPT,),
}


def target_of(value: object) -> str:
    return value.target.rpartition(":")[2] if isinstance(value, Patch) else "apply"


EVERY_PATCH = pytest.mark.parametrize(
    ("patch", "apply"),
    [(patch, apply) for apply, group in APPLIED_BY.items() for patch in group],
    ids=target_of,
)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test patches is restored after it."""
    for patch in PATCHES:
        owner, name = patches.owner_of(patch.target)
        monkeypatch.setattr(owner, name, getattr(owner, name))


def remove(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = patches.owner_of(target)
    monkeypatch.delattr(owner, name)


def check_outcome(
    patch: Patch,
    check: Callable[[], None],
    apply: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    problem: str,
) -> None:
    """A needed patch refuses the start, before and in the process that it is for; one for speed is skipped with one line."""
    if patch.needed:
        for refusing in (check, apply):
            with pytest.raises(ProveserveError) as caught:
                refusing()
            message = (
                rf"\w+ [\d.]+ {re.escape(problem)}; .* has to be replaced so that .*; install (ray|grpcio)[\[<>].*"
            )
            assert re.fullmatch(message, str(caught.value))
        assert not caplog.records
    else:
        check()
        apply()
        (record,) = caplog.records
        assert record.getMessage() == "patch_skipped"
        assert record.fields["target"] == patch.target
        assert problem in record.fields["reason"]


def test_every_patch_is_tested_here() -> None:
    assert sorted(patch for group in APPLIED_BY.values() for patch in group) == sorted(PATCHES)


@EVERY_PATCH
def test_a_name_that_is_gone(
    patch: Patch, apply: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remove(patch.target, monkeypatch)
    check_outcome(patch, ray_patches.check, apply, caplog, f"has no {patch.target}")


@pytest.mark.parametrize("patch", PATCHES, ids=target_of)
def test_a_name_that_is_no_longer_used(
    patch: Patch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owner, name = patches.owner_of(patch.used_by)
    monkeypatch.setattr(owner, name, lambda *_: None)
    check_outcome(
        patch,
        lambda: patches.check([patch]),
        lambda: patches.replace(patch, lambda original: original),
        caplog,
        f"does not use {patch.target} in {patch.used_by}",
    )


@pytest.mark.parametrize("patch", [patch for patch in PATCHES if patch.relies_on], ids=target_of)
def test_a_name_that_lacks_what_the_replacement_needs(patch: Patch) -> None:
    changed = patch._replace(relies_on=(*patch.relies_on, "moved"), purpose=Purpose.EXPOSURE)
    with pytest.raises(ProveserveError, match=f"has no moved in {patch.target}"):
        patches.check([changed])


def test_a_service_does_not_start_without_a_needed_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    remove(ray_patches.SERVES_REFLECTION.target, monkeypatch)
    with (
        pytest.raises(
            ProveserveError, match=r"ray .* has no .*enable_server_reflection.*; install ray\[serve\]==2\.60"
        ),
        service.running(Plan("", (), "127.0.0.1", 9000), Interrupts()),
    ):
        raise AssertionError


def test_a_job_does_not_start_without_a_needed_patch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    remove(ray_patches.API_SERVER.target, monkeypatch)
    with pytest.raises(ProveserveError, match=r"^ray .* has no .*start_api_server; "), local_ray.starting():
        local_ray.init(1, tmp_path, logging_level="ERROR")


def test_internals_of_ray_and_grpc_are_used_in_one_module_each() -> None:
    private = set()
    for path in Path(serve.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.startswith(("ray", "grpc")) and "._" in name for name in names):
                private.add(path.name)
    assert private == {"ray_patches.py", "grpc_patches.py"}
