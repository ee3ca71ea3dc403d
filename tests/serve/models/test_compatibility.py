import msgspec
import pytest

from optimize.manifest import Machine, Manifest
from serve.models.compatibility import incompatibility
from tests.published import publish, scale

VNNI = Machine("measured", 2, 1024, ("avx2", "avx512_vnni", "avx_vnni"))
PLAIN = Machine("older", 2, 1024, ("avx2",))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("fitness")
    return msgspec.structs.replace(publish(folder / "registry", "double", scale(2.0), folder), machine=VNNI)


def int8(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, candidate="int8-static@onnxruntime-cpu")


def test_a_float_version_is_served_anywhere(manifest: Manifest) -> None:
    assert incompatibility(manifest, PLAIN) is None


def test_an_int8_version_needs_the_dot_products_that_it_was_measured_with(manifest: Manifest) -> None:
    reason = incompatibility(int8(manifest), PLAIN)
    assert reason is not None
    assert reason.startswith("double version 1: is INT8 and was measured with avx512_vnni and avx_vnni, which")
    assert incompatibility(int8(manifest), VNNI) is None
    assert incompatibility(int8(manifest), Machine("newer", 2, 1024, ("avx2", "avx_vnni"))) is None


def test_what_was_measured_without_them_needs_none(manifest: Manifest) -> None:
    assert incompatibility(int8(msgspec.structs.replace(manifest, machine=PLAIN)), PLAIN) is None


def test_more_threads_than_the_replicas_have_cores_for_are_refused(manifest: Manifest) -> None:
    options = msgspec.structs.replace(manifest.artifact.options, threads=2)
    wide = msgspec.structs.replace(manifest, artifact=msgspec.structs.replace(manifest.artifact, options=options))
    assert incompatibility(wide, VNNI, replicas=1) is None
    assert incompatibility(manifest, VNNI, replicas=2) is None
    reason = incompatibility(wide, VNNI, replicas=2)
    assert reason is not None
    assert reason.startswith("2 replicas of 2 threads need 4 cores, this machine has 2; wanted at most 1 replicas")


def test_an_engine_is_refused_with_the_gpus_it_was_built_for(manifest: Manifest) -> None:
    artifact = msgspec.structs.replace(manifest.artifact, format="tensorrt-rtx")
    budgets = msgspec.structs.replace(manifest.budgets, compute_capabilities=("86", "89"))
    reason = incompatibility(msgspec.structs.replace(manifest, artifact=artifact, budgets=budgets), VNNI)
    assert reason is not None
    assert "is a tensorrt-rtx engine for GPUs of compute capability 86, 89; wanted an ONNX file" in reason
