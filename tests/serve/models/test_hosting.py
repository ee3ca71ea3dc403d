import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimize.errors import ArtifactError, InputError
from optimize.execution.machine import describe
from optimize.manifest import Golden, Machine, Manifest, encode
from optimize.registry import Registry
from optimize.runtime.batching.rejections import Closed, QueueFull
from serve.models.hosting import Models
from serve.models.loading import QUEUED_BATCHES, QUEUED_ROWS, LoadedVersion, queued_rows
from serve.models.refused import Refused
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
        version = models.find("double", "1")
        inputs = {"x": np.ones((3, 4), np.float32)}
        answer = await version.batcher.submit(inputs, version.rows(inputs))
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


def second(registry: Registry, folder: Path, model: onnx.ModelProto | None = None) -> Manifest:
    """One more version of the model; an answer tells which one gave it."""
    return publish(registry.place, "double", model or scale(3.0), folder)


async def ask(version: LoadedVersion, rows: int = 1) -> float:
    answer = await version.batcher.submit({"x": np.ones((rows, 4), np.float32)}, rows)
    return float(answer.outputs["y"][0, 0])


def test_versions_answer_side_by_side(registry: Registry, manifest: Manifest, tmp_path: Path) -> None:
    async def story() -> None:
        models = Models(["double"])
        await models.load(registry, manifest)
        await models.load(registry, second(registry, tmp_path))
        assert models.versions("double") == [1, 2]
        assert [await ask(models.find("double", version)) for version in ("", "1", "2")] == [2.0, 2.0, 3.0]
        models.set_default("double", 2)
        assert await ask(models.find("double", "")) == 3.0
        with pytest.raises(Refused, match="no version 3 here; served: 1, 2"):
            models.find("double", "3")
        await models.drain()

    asyncio.run(story())


def test_a_retired_version_answers_what_it_accepted(registry: Registry, manifest: Manifest, tmp_path: Path) -> None:
    async def story() -> None:
        models = Models(["double"])
        await models.load(registry, manifest)
        old = models.find("double", "")
        await models.load(registry, second(registry, tmp_path))
        accepted = [asyncio.create_task(ask(old)) for _ in range(50)]
        await asyncio.sleep(0)  # each has entered the old version's queue
        models.set_default("double", 2)
        retiring = asyncio.create_task(models.unload("double", 1))
        await asyncio.sleep(0)
        assert models.versions("double") == [2]
        with pytest.raises(Refused, match="no version 1 here"):
            models.find("double", "1")
        retiring.cancel()  # the caller may be cancelled
        await models.drain()
        assert [await call for call in accepted] == [2.0] * 50
        with pytest.raises(Closed):
            await ask(old)

    asyncio.run(story())


def one_row_only() -> onnx.GraphProto:
    """y = x, where row r is scaled by element r of a table that has only one."""
    return helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["rows"], end=1),
            helper.make_node("Sub", ["rows", "one"], ["last"]),
            helper.make_node("Gather", ["table", "last"], ["factor"]),
            helper.make_node("Mul", ["x", "factor"], ["y"]),
        ],
        "one_row",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("table", TensorProto.FLOAT, [1], [1.0]),
        ],
    )


def test_a_version_that_fails_on_its_largest_batch_is_refused(registry: Registry, tmp_path: Path) -> None:
    model = helper.make_model(one_row_only(), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(ArtifactError, match="double version 1: fails on a batch of 8 rows: "):
        load(registry, second(registry, tmp_path, model))


def test_the_loop_answers_while_a_version_is_opened(registry: Registry, manifest: Manifest, monkeypatch: Any) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def held(*arguments: Any) -> None:
        entered.set()
        assert go_on.wait(20)

    monkeypatch.setattr("serve.models.loading.golden.replay", held)

    async def story() -> None:
        models = Models(["double"])
        loading = asyncio.create_task(models.load(registry, manifest))
        await asyncio.to_thread(entered.wait, 20)
        assert not models.ready  # and the loop is here to say so
        go_on.set()
        await loading
        await models.drain()

    asyncio.run(story())


@pytest.mark.parametrize("here", [True, False])
def test_it_is_known_where_a_version_was_measured(registry: Registry, manifest: Manifest, here: bool) -> None:
    async def story() -> bool:
        models = Models(["double"])
        machine = describe() if here else Machine("another", 64, 1024, ())
        await models.load(registry, msgspec.structs.replace(manifest, machine=machine))
        version = models.find("double", "")
        await models.drain()
        return version.measured_here

    assert asyncio.run(story()) is here


def test_manifest_survives_the_trip_that_a_replica_takes(registry: Registry, manifest: Manifest) -> None:
    assert encode(registry.load("double", 1)) == encode(manifest)


def test_a_call_is_refused_unread_only_if_no_model_would_take_it(registry: Registry, manifest: Manifest) -> None:
    made: list[str] = []
    full: set[str] = set()

    class Asked:
        def __init__(self, name: str) -> None:
            self.name = name

        def refusal(self, deadline: float | None) -> Callable[[], QueueFull] | None:
            assert deadline == 7.0
            return self.make if self.name in full else None

        def make(self) -> QueueFull:
            made.append(self.name)
            return QueueFull(self.name, 1.0)

    models = Models(["a", "b"])
    assert models.refusal(7.0) is None, "nothing is loaded; that is said by name"
    for name in ("a", "b"):
        models.add(LoadedVersion(msgspec.structs.replace(manifest, model=name), Asked(name)))  # type: ignore[arg-type] # a stand-in
    for names in ("", "a", "b"):
        full.clear()
        full.update(names)
        assert models.refusal(7.0) is None
    assert not made, "a call that may be answered gets no time to retry"
    full.update("ab")
    assert isinstance(models.refusal(7.0), QueueFull)
    assert len(made) == 1


def test_a_queue_holds_full_batches_and_never_few_rows(manifest: Manifest) -> None:
    def bound(largest: int) -> int:
        dims = {"batch": msgspec.structs.replace(manifest.signature.dims["batch"], max=largest)}
        return queued_rows(msgspec.structs.replace(manifest.signature, dims=dims))

    assert [bound(largest) for largest in (1, 32, 100)] == [QUEUED_ROWS, QUEUED_ROWS, 100 * QUEUED_BATCHES]
