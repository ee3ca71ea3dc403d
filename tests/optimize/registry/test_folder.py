import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from optimize.errors import ArtifactError
from optimize.manifest import Blob, digest_of
from optimize.registry import Registry
from tests.optimize.registry.publishing import check_served, start_publisher
from tests.published import identity, publish


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry with one published version of `identity`."""
    root = tmp_path / "registry"
    publish(root, "identity", identity(), tmp_path)
    return Registry(root)


def root_of(registry: Registry) -> Path:
    return Path(registry.place)


def blob_path(registry: Registry, blob: Blob) -> Path:
    return root_of(registry) / "blobs" / "sha256" / blob.digest


def visible_files(registry: Registry) -> list[str]:
    files = (path.relative_to(root_of(registry)) for path in root_of(registry).rglob("*") if path.is_file())
    return sorted(str(path) for path in files if not any(part.startswith(".") for part in path.parts))


def check_whole(registry: Registry) -> None:
    """Every visible file is what its name says, and everything that is published can be served."""
    for blob in (root_of(registry) / "blobs" / "sha256").glob("[!.]*"):
        assert digest_of(blob) == blob.name
    check_served(registry)


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


def test_check_finds_out_that_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path / "new")
    registry.check()
    assert list((tmp_path / "new").iterdir()) == []

    def read_only(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(ArtifactError, match="cannot be written: Read-only file system"):
        registry.check()


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


def test_blob_that_is_there_is_not_written_again(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"same")
    path = registry.blob(registry.put(tmp_path / "file", "one"))
    inode = path.stat().st_ino
    assert registry.put(tmp_path / "file", "two") == Blob("two", path.name, 4)
    assert path.stat().st_ino == inode


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
