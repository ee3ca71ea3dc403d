"""What a replica does when another version becomes current, on real models and a real registry."""

import asyncio
import logging
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimize.arrays import Arrays
from optimize.errors import ArtifactError
from optimize.manifest import Manifest
from optimize.registry import Registry
from optimize.runtime.session import OnnxSession
from serve.models import versions
from serve.models.hosting import Models
from serve.models.versions import Follower, Versions
from serve.served_versions import ServedModel
from tests.published import publish, scale


class Replica:
    """Models and one follower, without a server."""

    def __init__(self, registry: Registry, model: ServedModel) -> None:
        self.models = Models([model.name])
        self.follower = Follower(self.models, registry, model, 1)

    async def answer(self, version: str = "") -> tuple[float, int]:
        """What the model makes of 1, and which version it was."""
        loaded = self.models.find("double", version)
        answer = await loaded.batcher.submit({"x": np.ones((1, 4), np.float32)}, 1)
        return float(answer.outputs["y"][0, 0]), loaded.manifest.version


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    publish(tmp_path / "registry", "double", scale(1.0), tmp_path)
    return Registry(tmp_path / "registry")


def following(registry: Registry, story: Any, model: ServedModel | None = None) -> None:
    async def run() -> None:
        replica = Replica(registry, model or ServedModel("double", 1))
        try:
            await replica.follower.load()
            await story(replica)
        finally:
            await replica.models.drain()

    asyncio.run(run())


def next_version(registry: Registry, folder: Path, factor: float) -> Manifest:
    return publish(registry.place, "double", scale(factor), folder)


def damage(registry: Registry, manifest: Manifest) -> None:
    blob = Path(registry.place) / "blobs" / "sha256" / manifest.digest
    blob.write_bytes(blob.read_bytes() + b"!")


def test_a_new_current_version_replaces_the_old_one(registry: Registry, tmp_path: Path) -> None:
    async def story(replica: Replica) -> None:
        assert await replica.answer() == (1.0, 1)
        next_version(registry, tmp_path, 2.0)
        await replica.follower.update()
        assert await replica.answer() == (2.0, 2)
        assert replica.models.versions("double") == [2]
        registry.rollback("double")
        await replica.follower.update()
        assert await replica.answer() == (1.0, 1)
        assert replica.models.versions("double") == [1]

    following(registry, story)


def test_nothing_is_opened_while_nothing_changes(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(replica: Replica) -> None:
        before = replica.models.find("double", "")
        await replica.follower.update()
        assert replica.models.find("double", "") is before

    following(registry, story)


def test_no_call_fails_while_versions_change(registry: Registry, tmp_path: Path) -> None:
    for factor in (2.0, 3.0):
        next_version(registry, tmp_path, factor)
    answers: list[tuple[float, int]] = []

    async def story(replica: Replica) -> None:
        done = asyncio.Event()

        async def call() -> None:
            while not done.is_set():
                answers.append(await replica.answer())

        callers = [asyncio.create_task(call()) for _ in range(8)]
        for version in (1, 3, 2, 3):
            registry.promote("double", version)
            await replica.follower.update()
        done.set()
        await asyncio.gather(*callers)

    following(registry, story, ServedModel("double", 1))
    assert {version for _, version in answers} == {1, 2, 3}
    assert all(factor == version for factor, version in answers)


@pytest.mark.parametrize("broken", ["damaged", "absent"])
def test_a_version_that_cannot_be_served_is_refused_once(
    registry: Registry, tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = next_version(registry, tmp_path, 2.0)
    damage(registry, bad)
    if broken == "absent":
        (Path(registry.place) / "blobs" / "sha256" / bad.digest).unlink()
    opened = 0
    plain = Models.load

    async def counted(*arguments: Any) -> None:
        nonlocal opened
        opened += 1
        await plain(*arguments)

    async def story(replica: Replica) -> None:
        monkeypatch.setattr(Models, "load", counted)
        for _ in range(3):
            await replica.follower.update()
        assert await replica.answer() == (1.0, 1)
        assert opened == 1
        (line,) = (record for record in caplog.records if record.message == "update_refused")
        assert line.fields["version"] == 2
        assert line.fields["answering"] == 1
        assert "digest" in line.fields["reason"] or "missing" in line.fields["reason"]
        monkeypatch.setattr(versions, "RETRY_S", 0.0)
        next_version(registry, tmp_path, 3.0)
        await replica.follower.update()
        assert await replica.answer() == (3.0, 3)

    registry.promote("double", 1)
    with caplog.at_level(logging.INFO, logger="serve"):
        following(registry, lambda replica: promoted(registry, 2, story(replica)))


async def promoted(registry: Registry, version: int, story: Coroutine[Any, Any, None]) -> None:
    registry.promote("double", version)
    await story


def test_a_refused_version_is_tried_again_after_a_while(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "RETRY_S", 0.0)
    bad = next_version(registry, tmp_path, 2.0)
    registry.promote("double", 1)

    async def story(replica: Replica) -> None:
        damage(registry, bad)
        registry.promote("double", 2)
        await replica.follower.update()
        assert await replica.answer() == (1.0, 1)
        blob = Path(registry.place) / "blobs" / "sha256" / bad.digest
        blob.write_bytes(blob.read_bytes()[:-1])
        await replica.follower.update()
        assert await replica.answer() == (2.0, 2)

    following(registry, story)


@pytest.mark.parametrize("how", ["garbage", "gone", "the whole registry is gone"])
def test_the_old_version_goes_on_while_the_registry_cannot_be_read(
    registry: Registry, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = Path(registry.place)
    current = place / "models" / "double" / "current"
    damage(registry, next_version(registry, tmp_path, 2.0))
    registry.promote("double", 1)

    async def story(replica: Replica) -> None:
        registry.promote("double", 2)
        await replica.follower.update()  # refused, not part of this test
        if how == "garbage":
            current.write_text("garbage")
        elif how == "gone":
            current.unlink()
        else:
            place.rename(tmp_path / "elsewhere")
        caplog.clear()
        for _ in range(3):
            await replica.follower.update()
        assert await replica.answer() == (1.0, 1)
        (line,) = (record for record in caplog.records if record.message == "update_refused")
        assert "version" not in line.fields
        assert "`optimize promote`" in line.fields["reason"]

    with caplog.at_level(logging.INFO, logger="serve"):
        following(registry, story)


def test_a_version_that_cannot_be_closed_does_not_delay_later_ones(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "CLOSE_TIMEOUT_S", 0.05)
    hanging, entered, ended = threading.Event(), threading.Event(), threading.Event()
    plain = OnnxSession.run

    def run(session: OnnxSession, *arguments: Any) -> Arrays:
        if hanging.is_set():
            entered.set()
            ended.wait(30)
        return plain(session, *arguments)

    async def story(replica: Replica) -> None:
        hanging.set()
        call = asyncio.create_task(replica.answer())
        while not entered.is_set():
            await asyncio.sleep(0.01)
        hanging.clear()
        for version, factor in ((2, 2.0), (3, 3.0)):
            next_version(registry, tmp_path, factor)
            await asyncio.wait_for(replica.follower.update(), 30)
            assert await replica.answer() == (factor, version)
        ended.set()
        assert await call == (1.0, 1), "its answer comes all the same"

    monkeypatch.setattr(OnnxSession, "run", run)
    with caplog.at_level(logging.INFO, logger="serve"):
        following(registry, story)
    assert [record.fields["version"] for record in caplog.records if record.message == "version_lingers"] == [1]


def test_a_pinned_version_stays(registry: Registry, tmp_path: Path) -> None:
    next_version(registry, tmp_path, 2.0)

    async def story(replica: Replica) -> None:
        assert replica.models.versions("double") == [1, 2]
        assert await replica.answer() == (2.0, 2)
        registry.promote("double", 1)
        await replica.follower.update()
        assert await replica.answer() == (1.0, 1)
        assert replica.models.versions("double") == [1]
        registry.promote("double", 2)
        await replica.follower.update()
        assert await replica.answer() == (2.0, 2)
        assert await replica.answer("1") == (1.0, 1)

    following(registry, story, ServedModel("double", 2, follows=True, pinned=(1,)))


def test_a_later_replica_starts_with_the_current_version(registry: Registry, tmp_path: Path) -> None:
    next_version(registry, tmp_path, 2.0)

    async def story(replica: Replica) -> None:
        assert await replica.answer() == (2.0, 2)

    following(registry, story, ServedModel("double", 1))


def test_a_later_replica_starts_with_the_version_before_a_refused_one(registry: Registry, tmp_path: Path) -> None:
    next_version(registry, tmp_path, 2.0)
    damage(registry, next_version(registry, tmp_path, 3.0))

    async def story(replica: Replica) -> None:
        assert await replica.answer() == (2.0, 2)
        await replica.follower.update()
        assert await replica.answer() == (2.0, 2)

    following(registry, story, ServedModel("double", 1))


def test_a_service_does_not_start_with_a_refused_version(registry: Registry, tmp_path: Path) -> None:
    bad = next_version(registry, tmp_path, 2.0)
    damage(registry, bad)

    async def story(_: Replica) -> None:
        raise AssertionError

    with pytest.raises(ArtifactError, match="its bytes have digest"):
        following(registry, story, ServedModel("double", 2))


def test_why_a_replica_cannot_start_is_in_the_log(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        await Versions(Models(["double"]), registry, [ServedModel("double", 7, follows=False)], 1).load()

    with caplog.at_level(logging.INFO, logger="serve"), pytest.raises(ArtifactError):
        asyncio.run(run())
    (line,) = (record for record in caplog.records if record.message == "start_failed")
    assert "no version 7" in line.fields["reason"]


def test_a_named_version_is_not_followed(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "POLL_S", 0.01)

    async def run() -> None:
        publish(registry.place, "other", scale(1.0), tmp_path)
        models = Models(["double", "other"])
        served = Versions(
            models, registry, [ServedModel("double", 1, follows=False, pinned=(1,)), ServedModel("other", 1)], 1
        )
        await served.load()
        for name in ("double", "other"):
            publish(registry.place, name, scale(2.0), tmp_path)
        while models.versions("other") != [2]:
            await asyncio.sleep(0.01)
        assert models.versions("double") == [1]
        await served.stop()
        publish(registry.place, "other", scale(3.0), tmp_path)
        await asyncio.sleep(0.1)
        assert models.versions("other") == [2]
        await models.drain()

    asyncio.run(asyncio.wait_for(run(), 30))
