import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from optimize.budgets import Budgets
from optimize.errors import ArtifactError, Exit
from optimize.manifest import Blob, Manifest, digest_of
from optimize.registry import Registry, location
from optimize.registry.folder import Folder
from tests.published import identity, publish

ROOT = Path(__file__).parents[2]
# Publishes version after version, each with 8 MB of new bytes, until it is killed or told how many.
PUBLISHER = """
import sys
from pathlib import Path
import msgspec
from optimize.registry import Registry
root, folder, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
registry, file = Registry(root), folder / "bytes"
manifest = registry.load("identity", 1)
for number in range(count):
    file.write_bytes(f"{folder.name} {number}".encode() * (8_000_000 // 16))
    artifact = msgspec.structs.replace(manifest.artifact, files=(registry.put(file, "model.onnx"),))
    print(registry.publish(msgspec.structs.replace(manifest, artifact=artifact)).version, flush=True)
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry with one published version of `identity`."""
    root = tmp_path / "registry"
    publish(root, "identity", identity(), tmp_path)
    return Registry(root)


def root_of(registry: Registry) -> Path:
    return Path(registry.place)


def start_publisher(registry: Registry, folder: Path, count: int) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", PUBLISHER, registry.place, str(folder), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def visible_files(registry: Registry) -> list[str]:
    files = (path.relative_to(root_of(registry)) for path in root_of(registry).rglob("*") if path.is_file())
    return sorted(str(path) for path in files if not any(part.startswith(".") for part in path.parts))


def check_whole(registry: Registry) -> None:
    """Every visible file is what its name says, and everything that is published can be served."""
    for blob in (root_of(registry) / "blobs" / "sha256").glob("[!.]*"):
        assert digest_of(blob) == blob.name
    versions = registry.versions("identity")
    for version in versions:
        manifest = registry.load("identity", version)
        assert manifest.version == version
        assert registry.model_file(manifest).exists()
    assert registry.current("identity") in versions


def test_first_version_is_1_and_current(registry: Registry) -> None:
    assert (registry.versions("identity"), registry.current("identity"), registry.models()) == ([1], 1, ["identity"])
    assert registry.load("identity") == registry.load("identity", 1)


def test_empty_registry_holds_nothing(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "none")
    assert (registry.versions("a"), registry.current("a"), registry.models()) == ([], None, [])


def test_layout_is_the_documented_one_with_no_stray_file(registry: Registry, tmp_path: Path) -> None:
    publish(registry.place, "identity", identity(), tmp_path)
    manifest = registry.load("identity", 2)
    blobs = {manifest.artifact.files[0].digest, manifest.golden.blob.digest}
    assert visible_files(registry) == [
        *sorted(f"blobs/sha256/{digest}" for digest in blobs),
        "models/identity/1/manifest.json",
        "models/identity/2/manifest.json",
        "models/identity/current",
    ]
    assert [path for path in root_of(registry).rglob(".*") if path.is_file()] == []
    assert (root_of(registry) / "models/identity/current").read_text() == "2\n"


def test_files_have_the_permissions_that_the_umask_leaves(registry: Registry, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        (tmp_path / "fresh").write_bytes(b"fresh")
        version = registry.publish(registry.load("identity")).version
        blob = registry.put(tmp_path / "fresh", "fresh")
    finally:
        os.umask(before)
    manifest = Path(registry.manifest_path("identity", version))
    for path in (registry.blob(blob), manifest, root_of(registry) / "models/identity/current"):
        assert path.stat().st_mode & 0o777 == 0o640


def test_concurrent_publishers_claim_different_numbers(registry: Registry, tmp_path: Path) -> None:
    publishers = [start_publisher(registry, tmp_path / str(number), 4) for number in range(4)]
    try:
        claimed = [int(line) for publisher in publishers for line in publisher.communicate(timeout=60)[0].split()]
    finally:
        for publisher in publishers:
            publisher.kill()
            publisher.wait()
    assert sorted(claimed) == list(range(2, 18))
    assert registry.versions("identity") == list(range(1, 18))
    assert registry.current("identity") == 17
    check_whole(registry)


class Overtaking:
    """A folder in which another publisher claims the next number and makes it current just as this one writes its own."""

    def __init__(self, folder: Folder, other: Callable[[], object]) -> None:
        self._folder, self._other = folder, other

    def __getattr__(self, name: str) -> object:
        return getattr(self._folder, name)

    def write(self, key: str, data: bytes) -> None:
        overtake, self._other = self._other, lambda: None
        overtake()
        self._folder.write(key, data)


def test_the_last_of_two_concurrent_publishers_is_current(registry: Registry) -> None:
    manifest = registry.load("identity")
    slow = Registry(registry.place)
    slow._store = Overtaking(Folder(root_of(registry)), lambda: registry.publish(manifest))
    assert slow.publish(manifest).version == 2
    assert (registry.versions("identity"), registry.current("identity")) == ([1, 2, 3], 3)


def test_kill_while_publishing_leaves_the_registry_whole(registry: Registry, tmp_path: Path) -> None:
    for attempt in range(6):
        publisher = start_publisher(registry, tmp_path / f"killed {attempt}", 10_000)
        try:
            assert publisher.stdout is not None
            publisher.stdout.readline()
            time.sleep(0.007 * attempt)  # another moment of the next put or publish each time
        finally:
            publisher.kill()
            publisher.communicate()
        check_whole(registry)
    left = [path for path in root_of(registry).rglob(".*") if path.is_file()]
    assert len(left) <= 6
    publish(registry.place, "identity", identity(), tmp_path)
    check_whole(registry)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 1 MB, where this process may mount one."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_leaves_the_registry_whole(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "disk")
    with small_disk(root_of(registry)):
        publish(registry.place, "identity", identity(), tmp_path)
        before = visible_files(registry)
        (tmp_path / "large").write_bytes(b"x" * 2_000_000)
        with pytest.raises(ArtifactError, match="cannot be written: No space left on device; make room"):
            registry.put(tmp_path / "large", "large")
        (root_of(registry) / ".ballast").write_bytes(b"x" * (os.statvfs(root_of(registry)).f_bavail * 4096))
        with pytest.raises(ArtifactError, match="No space left on device"):
            registry.publish(registry.load("identity"))
        with pytest.raises(ArtifactError, match="No space left on device"):
            registry.promote("identity", 1)
        assert visible_files(registry) == before
        check_whole(registry)
        (root_of(registry) / ".ballast").unlink()
        assert registry.publish(registry.load("identity")).version == 2
        check_whole(registry)


def test_file_that_cannot_be_finished_never_appears(registry: Registry, tmp_path: Path) -> None:
    before = visible_files(registry)
    (tmp_path / "large").write_bytes(b"x" * 2_000_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # CPython ignores SIGXFSZ, so a write beyond the limit fails as one on a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(ArtifactError, match="cannot be written: File too large"):
            registry.put(tmp_path / "large", "large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert visible_files(registry) == before
    assert [path for path in root_of(registry).rglob(".*") if path.is_file()] == []


def blob_path(registry: Registry, blob: Blob) -> Path:
    return root_of(registry) / "blobs" / "sha256" / blob.digest


def test_damaged_blob_is_refused_and_mended_by_putting_it_again(registry: Registry, tmp_path: Path) -> None:
    blob = registry.load("identity").artifact.files[0]
    path = blob_path(registry, blob)
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(ArtifactError, match=r"its manifest says.*changed or damaged: export the model again") as caught:
        registry.blob(blob)
    assert caught.value.exit_code == Exit.BROKEN
    (tmp_path / "again").write_bytes(whole)
    assert registry.put(tmp_path / "again", blob.name) == blob
    assert registry.blob(blob).read_bytes() == whole


def test_damaged_external_data_is_refused_with_its_model(registry: Registry, tmp_path: Path) -> None:
    manifest = registry.load("identity")
    (tmp_path / "weights").write_bytes(b"weights")
    weights = registry.put(tmp_path / "weights", "weights")
    files = (*manifest.artifact.files, weights)
    manifest = msgspec.structs.replace(manifest, artifact=msgspec.structs.replace(manifest.artifact, files=files))
    assert registry.model_file(manifest) == blob_path(registry, manifest.artifact.files[0])
    blob_path(registry, weights).write_bytes(b"Weights")
    with pytest.raises(ArtifactError, match="weights: its bytes have digest"):
        registry.model_file(manifest)


def test_missing_blob_is_told(registry: Registry) -> None:
    blob = registry.load("identity").golden.blob
    blob_path(registry, blob).unlink()
    with pytest.raises(ArtifactError, match=f"golden.npz: blob {blob.digest[:12]} is missing from"):
        registry.blob(blob)


def test_blob_that_is_there_is_not_written_again(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"same")
    path = registry.blob(registry.put(tmp_path / "file", "one"))
    inode = path.stat().st_ino
    assert registry.put(tmp_path / "file", "two") == Blob("two", path.name, 4)
    assert path.stat().st_ino == inode


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


def test_damaged_current_is_told(registry: Registry) -> None:
    (root_of(registry) / "models/identity/current").write_text("latest\n")
    with pytest.raises(ArtifactError, match="`current` says 'latest'; wanted a version number such as 1"):
        registry.load("identity")


def test_damaged_manifest_is_told(registry: Registry) -> None:
    Path(registry.manifest_path("identity", 1)).write_text("{")
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
    with pytest.raises(ArtifactError, match=r"identity: no version before 1 in .*; nothing to go back to"):
        registry.rollback("identity")
    with pytest.raises(ArtifactError, match="other: no version before a current one"):
        registry.rollback("other")


def aged(path: Path, hours: float) -> Path:
    then_s = time.time() - hours * 3600
    os.utime(path, (then_s, then_s))
    return path


def test_what_no_version_names_is_collected_once_it_is_old(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "orphan").write_bytes(b"orphan")
    orphan = registry.blob(registry.put(tmp_path / "orphan", "orphan"))
    stray = root_of(registry) / "models/identity/1/.manifest.json.0123"
    stray.write_bytes(b"half")
    named = [blob_path(registry, blob) for blob in (*registry.load("identity").artifact.files,)]
    for path in (orphan, stray, *named):
        aged(path, hours=2)
    assert registry.collect(older_than_s=3 * 3600) == []
    assert set(registry.collect(older_than_s=3600)) == {str(orphan), str(stray)}
    assert not orphan.exists()
    check_whole(registry)


def test_blob_that_is_put_again_is_not_collected_before_a_version_names_it(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "orphan").write_bytes(b"orphan")
    path = aged(registry.blob(registry.put(tmp_path / "orphan", "orphan")), hours=48)
    registry.put(tmp_path / "orphan", "orphan")
    assert registry.collect(older_than_s=3600) == []
    assert path.exists()


def test_nothing_is_collected_while_a_manifest_is_damaged(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "orphan").write_bytes(b"orphan")
    path = aged(registry.blob(registry.put(tmp_path / "orphan", "orphan")), hours=48)
    Path(registry.manifest_path("identity", 1)).write_text("{")
    with pytest.raises(ArtifactError, match="not a manifest"):
        registry.collect(older_than_s=0)
    assert path.exists()


def test_registry_is_relative_to_its_budgets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    budgets = Budgets(schema=1, models={}, registry="../store")
    assert location(Path("deep/budgets.toml"), budgets) == str(tmp_path / "deep" / ".." / "store")
