import asyncio
from pathlib import Path

import grpc
import msgspec
import numpy as np
import pytest

from optimize.errors import ArtifactError, InputError
from optimize.manifest import Golden, Manifest, encode
from optimize.registry import Registry
from serve.hosting import Models
from serve.status import Refused
from tests.published import publish, scale


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return publish(tmp_path / "registry", "double", scale(2.0), tmp_path)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def load(registry: Registry, manifest: Manifest) -> None:
    async def story() -> None:
        models = Models([manifest.model])
        try:
            await models.load(registry, manifest)
        finally:
            await models.drain()

    asyncio.run(story())


def test_a_published_version_answers(registry: Registry, manifest: Manifest) -> None:
    async def story() -> np.ndarray:
        models = Models(["double"])
        assert not models.ready
        await models.load(registry, manifest)
        assert models.ready
        hosted = models.find("double", "1")
        inputs = {"x": np.ones((3, 4), np.float32)}
        answer = await hosted.batcher.submit(inputs, hosted.rows(inputs))
        await models.drain()
        assert not models.ready
        return answer.outputs["y"]

    np.testing.assert_array_equal(asyncio.run(story()), np.full((3, 4), 2, np.float32))


def test_a_changed_file_is_refused(registry: Registry, manifest: Manifest) -> None:
    blob = Path(registry.place) / "blobs" / "sha256" / manifest.digest
    blob.write_bytes(blob.read_bytes() + b"!")
    with pytest.raises(ArtifactError, match="its bytes have digest"):
        load(registry, manifest)


def test_other_answers_than_measured_are_refused(registry: Registry, manifest: Manifest, tmp_path: Path) -> None:
    arrays = dict(np.load(registry.blob(manifest.golden.blob)))
    arrays["out/3/y"] = arrays["out/3/y"] + 1
    np.savez(tmp_path / "other.npz", **arrays)
    golden = Golden(registry.put(tmp_path / "other.npz", "golden.npz"), 8, 1e-6, 1e-6)
    with pytest.raises(ArtifactError, match="golden input 3"):
        load(registry, msgspec.structs.replace(manifest, golden=golden))


def test_an_engine_for_another_runtime_is_refused(registry: Registry, manifest: Manifest) -> None:
    artifact = msgspec.structs.replace(manifest.artifact, format="tensorrt")
    with pytest.raises(ArtifactError, match="is a tensorrt engine; wanted an ONNX file"):
        load(registry, msgspec.structs.replace(manifest, artifact=artifact))


@pytest.mark.parametrize(
    ("name", "version", "code"),
    [("nobody", "", grpc.StatusCode.NOT_FOUND), ("double", "7", grpc.StatusCode.NOT_FOUND)],
)
def test_what_is_not_here_is_not_found(
    registry: Registry, manifest: Manifest, name: str, version: str, code: grpc.StatusCode
) -> None:
    async def story() -> grpc.StatusCode:
        models = Models(["double", "later"])
        await models.load(registry, manifest)
        with pytest.raises(Refused) as caught:
            models.find(name, version)
        with pytest.raises(Refused, match="still loading"):
            models.find("later", "")
        with pytest.raises(InputError, match="not a number"):
            models.find("double", "one")
        await models.drain()
        return caught.value.code

    assert asyncio.run(story()) is code


def test_manifest_survives_the_trip_that_a_replica_takes(registry: Registry, manifest: Manifest) -> None:
    assert encode(registry.load("double", 1)) == encode(manifest)
