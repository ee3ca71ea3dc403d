from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from optimize.budgets import Budgets
from optimize.errors import ArtifactError, Exit, UserError
from optimize.manifest import Machine, Manifest
from optimize.registry import Registry, location
from optimize.registry.store import Store
from tests.optimize.registry.publishing import check_served, delete_blob, overwrite, overwrite_blob, start_publisher
from tests.optimize.report import results
from tests.published import identity, publish


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the registry is: its rules are the same everywhere."""
    if request.param == "folder":
        return str(tmp_path / "registry")
    url: str = request.getfixturevalue("s3").url
    return url


@pytest.fixture
def registry(place: str, tmp_path: Path) -> Registry:
    """A registry with one published version of `identity`."""
    publish(place, "identity", identity(), tmp_path)
    return Registry(place)


def test_first_version_is_1_and_current(registry: Registry) -> None:
    assert (registry.versions("identity"), registry.current("identity"), registry.models()) == ([1], 1, ["identity"])
    assert registry.load("identity") == registry.load("identity", 1)


def test_empty_registry_holds_nothing(place: str) -> None:
    registry = Registry(place)
    assert (registry.versions("a"), registry.current("a"), registry.models()) == ([], None, [])


def test_concurrent_publishers_claim_different_numbers(registry: Registry, tmp_path: Path) -> None:
    publishers = [start_publisher(registry, tmp_path / str(number), 4, 100_000) for number in range(4)]
    try:
        claimed = [int(line) for publisher in publishers for line in publisher.communicate(timeout=60)[0].split()]
    finally:
        for publisher in publishers:
            publisher.kill()
            publisher.wait()
    assert sorted(claimed) == list(range(2, 18))
    assert registry.versions("identity") == list(range(1, 18))
    assert registry.current("identity") == 17
    check_served(registry)


class Overtaking:
    """A store in which another publisher claims the next number and makes it current just as this one writes its own."""

    def __init__(self, store: Store, other: Callable[[], object]) -> None:
        self._store, self._other = store, other

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write(self, key: str, data: bytes) -> None:
        overtake, self._other = self._other, lambda: None
        overtake()
        self._store.write(key, data)


def test_the_last_of_two_concurrent_publishers_is_current(registry: Registry) -> None:
    manifest = registry.load("identity")
    slow = Registry(registry.place)
    slow._store = Overtaking(slow._store, lambda: registry.publish(manifest))
    assert slow.publish(manifest).version == 2
    assert (registry.versions("identity"), registry.current("identity")) == ([1, 2, 3], 3)


def test_damaged_blob_is_refused_and_fixed_by_putting_it_again(registry: Registry, tmp_path: Path) -> None:
    blob = registry.load("identity").artifact.files[0]
    whole = (tmp_path / "identity.onnx").read_bytes()
    overwrite_blob(registry, blob, bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(ArtifactError, match=r"its manifest says.*changed or damaged: export the model again") as caught:
        registry.blob(blob)
    assert caught.value.exit_code == Exit.BROKEN
    (tmp_path / "again").write_bytes(whole)
    assert registry.put(tmp_path / "again", blob.name) == blob
    assert registry.blob(blob).read_bytes() == whole


def with_external_data(registry: Registry, folder: Path) -> Manifest:
    manifest = registry.load("identity")
    (folder / "weights").write_bytes(b"weights")
    files = (*manifest.artifact.files, registry.put(folder / "weights", "weights"))
    return msgspec.structs.replace(manifest, artifact=msgspec.structs.replace(manifest.artifact, files=files))


def test_external_data_is_next_to_its_model_under_its_digest(registry: Registry, tmp_path: Path) -> None:
    manifest = with_external_data(registry, tmp_path)
    model, weights = manifest.artifact.files
    path = registry.model_file(manifest)
    assert (path.name, path.with_name(weights.digest).read_bytes()) == (model.digest, b"weights")


def test_damaged_external_data_is_refused_with_its_model(registry: Registry, tmp_path: Path) -> None:
    manifest = with_external_data(registry, tmp_path)
    overwrite_blob(registry, manifest.artifact.files[1], b"Weights")
    with pytest.raises(ArtifactError, match="weights: its bytes have digest"):
        registry.model_file(manifest)


def test_missing_blob_is_reported(registry: Registry) -> None:
    blob = registry.load("identity").golden.blob
    delete_blob(registry, blob)
    with pytest.raises(ArtifactError, match=f"golden.npz: blob {blob.digest[:12]} is missing from"):
        registry.blob(blob)


@pytest.mark.parametrize(
    ("model", "version", "told"),
    [
        ("identity", 7, r"identity: no version 7 in .* \(published: 1\); publish one with `optimize export`"),
        ("other", None, r"other: no current version in .* \(published: none\)"),
    ],
)
def test_missing_version_names_the_published_ones(
    registry: Registry, model: str, version: int | None, told: str
) -> None:
    with pytest.raises(ArtifactError, match=told):
        registry.load(model, version)


def test_version_that_does_not_exist_is_not_promoted(registry: Registry) -> None:
    with pytest.raises(ArtifactError, match="no version 2"):
        registry.promote("identity", 2)
    assert registry.current("identity") == 1


def test_damaged_current_is_reported(registry: Registry) -> None:
    overwrite(registry, "models/identity/current", b"latest\n")
    with pytest.raises(ArtifactError, match="`current` says 'latest'; wanted a version number such as 1"):
        registry.load("identity")


def test_damaged_manifest_is_reported(registry: Registry) -> None:
    overwrite(registry, "models/identity/1/manifest.json", b"{")
    with pytest.raises(ArtifactError, match=r"manifest\.json: not a manifest of schema 1"):
        registry.load("identity")


def test_promote_and_publish_move_current(registry: Registry) -> None:
    manifest: Manifest = registry.load("identity")
    assert registry.publish(manifest).version == 2
    registry.promote("identity", 1)
    assert registry.current("identity") == 1
    assert registry.publish(manifest).version == 3
    assert registry.current("identity") == 3


def test_rollback_goes_to_the_version_before(registry: Registry) -> None:
    for _ in range(2):
        registry.publish(registry.load("identity"))
    assert (registry.rollback("identity"), registry.current("identity")) == (2, 2)
    assert (registry.rollback("identity"), registry.current("identity")) == (1, 1)
    with pytest.raises(ArtifactError, match=r"identity: no version before 1 in .*; nothing to roll back to"):
        registry.rollback("identity")
    with pytest.raises(ArtifactError, match="other: no version before a current one"):
        registry.rollback("other")


def test_what_no_version_names_is_collected_and_nothing_else(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "orphan").write_bytes(b"orphan")
    orphan = registry.put(tmp_path / "orphan", "orphan")
    assert registry.collect(older_than_s=3600) == []
    (deleted,) = registry.collect(older_than_s=0)
    assert deleted == f"{registry.place}/blobs/sha256/{orphan.digest}"
    with pytest.raises(ArtifactError, match=r"orphan: blob .* is missing"):
        registry.blob(orphan)
    check_served(registry)


def test_nothing_is_collected_while_a_manifest_is_damaged(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "orphan").write_bytes(b"orphan")
    orphan = registry.put(tmp_path / "orphan", "orphan")
    overwrite(registry, "models/identity/1/manifest.json", b"{")
    with pytest.raises(ArtifactError, match="not a manifest"):
        registry.collect(older_than_s=0)
    assert registry.blob(orphan).read_bytes() == b"orphan"


def test_results_and_judgements_are_kept(registry: Registry) -> None:
    manifest = registry.load("identity")
    won = results.won()
    registry.keep(won)
    assert registry.result(won.name) == won
    assert registry.result("identity") is None
    elsewhere = Machine("another", 2, 1024, ())
    assert not registry.measured_on(manifest, elsewhere)
    registry.keep_judgement(1, msgspec.structs.replace(won, name="identity", machine=elsewhere))
    assert registry.measured_on(manifest, elsewhere)


def test_partial_result_is_kept_until_there_is_a_full_one(registry: Registry) -> None:
    """A full one that fails takes the place of another, as the last word; a damaged one of any."""
    full, failed = results.won(), results.without_winner()
    quick, built = (msgspec.structs.replace(found, name=full.name) for found in (results.quick(), results.built()))
    failed = msgspec.structs.replace(failed, name=full.name)
    for given, kept in ((quick, quick), (built, built), (full, full), (quick, full), (failed, failed), (built, failed)):
        registry.keep(given)
        assert registry.result(full.name) == kept
    overwrite(registry, f"reports/{full.name}/result.json", b"{")
    registry.keep(quick)
    assert registry.result(full.name) == quick


def test_registry_is_relative_to_its_budgets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    budgets = Budgets(schema=1, models={}, registry="../store")
    assert location(Path("deep/budgets.toml"), budgets) == str(tmp_path / "deep" / ".." / "store")


def test_url_is_the_same_wherever_its_budgets_file_is() -> None:
    assert location(Path("deep/budgets.toml"), Budgets(schema=1, models={}, registry="s3://a/b")) == "s3://a/b"


@pytest.mark.parametrize("url", ["memory://models", "file:///tmp/models", "gs://bucket/models", "https://host/models"])
def test_store_without_conditional_writes_is_refused(url: str) -> None:
    scheme = url.partition(":")[0]
    with pytest.raises(UserError, match=f"{url}: a {scheme} store may let several writers .*; wanted a folder, or s3:"):
        Registry(url)
