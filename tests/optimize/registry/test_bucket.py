import os
import subprocess
import sys
from pathlib import Path

import pytest

from optimize.errors import ArtifactError, Exit, ProveserveError, UserError
from optimize.registry import Registry
from optimize.registry import bucket as bucket_module
from optimize.registry.store import blob_key
from tests.objectstore import Store, call
from tests.optimize.registry.publishing import ROOT, check_served, overwrite_blob, start_publisher
from tests.published import identity, publish


@pytest.fixture
def registry(s3: Store, tmp_path: Path) -> Registry:
    """A registry with one published version of `identity`."""
    publish(s3.url, "identity", identity(), tmp_path)
    return Registry(s3.url)


def cached(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache/proveserve/blobs/sha256").glob("*"))


# What stands where.


def test_objects_are_the_documented_ones(registry: Registry) -> None:
    manifest = registry.load("identity")
    keys = [entry.key for prefix in ("blobs", "models") for entry in registry._store.entries(prefix)]
    assert sorted(keys) == [
        *sorted(blob_key(blob.digest) for blob in (manifest.artifact.files[0], manifest.golden.blob)),
        "models/identity/1/manifest.json",
        "models/identity/current",
    ]
    assert registry.manifest_path("identity", 1) == f"{registry.place}/models/identity/1/manifest.json"


def test_whole_bucket_may_be_the_registry(s3: Store, tmp_path: Path) -> None:
    publish(f"s3://{s3.bucket}/", "identity", identity(), tmp_path)
    registry = Registry(f"s3://{s3.bucket}")
    assert (registry.place, registry.versions("identity")) == (f"s3://{s3.bucket}", [1])
    check_served(registry)


def test_model_whose_name_begins_like_another_is_another(registry: Registry, tmp_path: Path) -> None:
    publish(registry.place, "identity-2", identity(), tmp_path)
    publish(registry.place, "identity-2", identity(), tmp_path)
    assert (registry.versions("identity"), registry.versions("identity-2")) == ([1], [1, 2])
    assert registry.models() == ["identity", "identity-2"]


def test_exports_build_in_the_users_cache(registry: Registry, tmp_path: Path) -> None:
    assert registry.scratch == tmp_path / "cache" / "proveserve" / "exports"


def test_cache_is_in_the_home_folder_unless_another_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert bucket_module.user_cache() == tmp_path / ".cache" / "proveserve"


# Uploads and downloads.


def test_file_is_downloaded_once_and_by_everybody_from_the_cache(registry: Registry, s3: Store, tmp_path: Path) -> None:
    manifest = registry.load("identity")
    path = registry.model_file(manifest)
    assert path == tmp_path / "cache/proveserve/blobs/sha256" / manifest.digest
    assert Registry(s3.url).model_file(manifest) == path
    assert len(s3.requests(f"GET .*{manifest.digest}")) == 1


def test_damaged_file_of_the_cache_is_downloaded_again(registry: Registry) -> None:
    manifest = registry.load("identity")
    path = registry.model_file(manifest)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert registry.model_file(manifest).read_bytes() == whole


def test_refused_download_leaves_nothing_in_the_cache(registry: Registry, tmp_path: Path) -> None:
    manifest = registry.load("identity")
    overwrite_blob(registry, manifest.artifact.files[0], b"another model")
    with pytest.raises(ArtifactError, match="its bytes have digest"):
        registry.model_file(manifest)
    assert cached(tmp_path) == []


def test_cache_that_cannot_be_written_is_reported(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ArtifactError, match="cannot be written: Not a directory; make room or fix the permissions"):
        registry.model_file(registry.load("identity"))


def test_file_that_the_store_has_whole_and_young_is_not_uploaded_again(
    registry: Registry, s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = registry.load("identity").artifact.files[0]
    for _ in range(2):
        registry.put(tmp_path / "identity.onnx", "identity.onnx")
    assert len(s3.requests(f"PUT .*{blob.digest}")) == 1
    monkeypatch.setattr(bucket_module, "YOUNG_S", 0.0)
    registry.put(tmp_path / "identity.onnx", "identity.onnx")
    assert len(s3.requests(f"PUT .*{blob.digest}")) == 2


def test_large_file_is_uploaded_in_parts(
    registry: Registry, s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "ONE_PUT_BYTES", 1 << 20)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(120 << 20)  # more than twice the parts of s3fs
    blob = registry.put(large, "large")
    assert len(s3.requests(f"PUT .*{blob.digest}")) > 1
    assert registry.blob(blob).stat().st_size == blob.size_bytes


# Claims.


def test_claim_whose_answer_was_lost_is_no_second_version(registry: Registry, s3: Store) -> None:
    s3.fail("lost", path="models/identity/2/manifest.json")
    assert registry.publish(registry.load("identity")).version == 2
    assert len(s3.requests("PUT .*/2/manifest.json")) == 2
    assert (registry.versions("identity"), registry.current("identity")) == ([1, 2], 2)


def test_claim_that_met_another_in_flight_is_made_again(registry: Registry, s3: Store) -> None:
    s3.fail("conflict", path="models/identity/2/manifest.json")
    assert registry.publish(registry.load("identity")).version == 2
    assert registry.versions("identity") == [1, 2]


def test_claim_that_never_gets_through_ends(registry: Registry, s3: Store) -> None:
    s3.fail("conflict", path="models/identity/2/manifest.json", times=100)
    with pytest.raises(ProveserveError, match=r"2/manifest\.json: other writers keep changing it"):
        registry.publish(registry.load("identity"))
    assert (registry.versions("identity"), registry.current("identity")) == ([1], 1)


def test_store_that_ignores_the_condition_is_refused_before_any_work(s3: Store) -> None:
    registry = Registry(s3.url)
    s3.fail("deaf", path="conditional", times=100)
    with pytest.raises(
        UserError, match=f"{s3.url}: this store ignores `If-None-Match`.*wanted a store with conditional"
    ):
        registry.check()
    assert not s3.requests("PUT .*(blobs|manifest)")


def test_store_with_conditional_writes_passes_every_time(s3: Store) -> None:
    for _ in range(2):
        Registry(s3.url).check()


def test_kill_while_publishing_leaves_the_registry_whole(registry: Registry, tmp_path: Path) -> None:
    publisher = start_publisher(registry, tmp_path / "killed", 10_000)
    try:
        assert publisher.stdout is not None
        publisher.stdout.readline()
    finally:
        publisher.kill()
        publisher.communicate()
    check_served(registry)


# Stores that do not do as they are asked: one line, exit code 2.


def refused(url: str) -> str:
    with pytest.raises(UserError) as caught:
        Registry(url)
    return str(caught.value)


def test_missing_bucket_is_reported(s3: Store) -> None:
    assert refused("s3://nobody-made-it/models") == (
        "s3://nobody-made-it/models: there is no bucket of that name; create it, or name another"
    )


@pytest.mark.parametrize("url", ["s3://", "s3:///models"])
def test_url_without_a_bucket_is_reported(url: str) -> None:
    assert "names no bucket; wanted s3://bucket/prefix" in refused(url)


def test_invalid_bucket_name_is_reported(s3: Store) -> None:
    assert "Invalid bucket name" in refused("s3://No Bucket/models")


def test_missing_endpoint_is_reported(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "the store cannot be reached" in refused(s3.url)
    assert "check the network and AWS_ENDPOINT_URL" in refused(s3.url)


def test_endpoint_that_is_no_url_is_reported(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert "Invalid endpoint: nonsense; check the URL and the AWS_* settings" in refused(s3.url)


def test_missing_credentials_are_reported(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials: Unable to locate credentials; set AWS_ACCESS_KEY_ID" in refused(s3.url)


def test_unknown_profile_is_reported(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "no credentials: The config profile (nobody) could not be found" in refused(s3.url)


def test_unknown_credentials_are_reported(s3: Store) -> None:
    def authenticate_after(requests: str) -> None:
        call(f"{s3.endpoint}/moto-api/reset-auth", requests.encode())

    authenticate_after("0")
    try:
        told = refused(s3.url)
    finally:
        authenticate_after("inf")
    assert "access is refused (InvalidAccessKeyId: " in told
    assert "check the credentials, and that they may list, read and write there" in told


def test_credentials_without_write_access_are_reported_and_nothing_is_published(registry: Registry, s3: Store) -> None:
    s3.fail("denied", times=100)
    with pytest.raises(UserError, match=r"access is refused \(AccessDenied: as the test asked\)"):
        registry.check()
    with pytest.raises(UserError, match="access is refused"):
        registry.publish(registry.load("identity"))
    assert (registry.versions("identity"), registry.current("identity")) == ([1], 1)


def test_store_that_fails_is_no_users_error(registry: Registry, s3: Store) -> None:
    s3.fail("lost", "GET", path="current", times=100)
    with pytest.raises(ProveserveError, match="the store answered InternalError: as the test asked; run the") as caught:
        registry.current("identity")
    assert caught.value.exit_code == Exit.BROKEN


def test_bucket_that_vanished_is_no_missing_version(registry: Registry, s3: Store) -> None:
    for key in (entry.key for prefix in ("blobs", "models") for entry in registry._store.entries(prefix)):
        registry._store.delete(key)
    call(f"{s3.endpoint}/{s3.bucket}", method="DELETE")
    with pytest.raises(UserError, match="there is no bucket of that name"):
        registry.current("identity")


def test_missing_extra_is_named() -> None:
    """In a process of its own: what was imported here stays imported."""
    code = "import sys; sys.modules['s3fs'] = None\nfrom optimize.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "versions", "net", "--registry", "s3://bucket/models"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: s3://bucket/models: s3fs is not installed, and a registry in a bucket needs it; install proveserve[s3]\n"
    )
