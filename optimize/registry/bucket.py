"""A registry in an S3 bucket, or in any store that speaks S3's protocol.

An object appears by one PUT of all its bytes, or when the upload of its parts is completed. An object that only one writer may
create is made by a conditional PUT (`If-None-Match: *`). Files are downloaded once, into this user's cache.

Credentials, region and endpoint come from where all AWS tools look: the environment (AWS_PROFILE, AWS_ENDPOINT_URL ...), ~/.aws, and
the machine's role.
"""

import base64
import os
import time
import uuid
from pathlib import Path
from typing import Any

from s3fs import S3FileSystem

from optimize.errors import ProveserveError, UserError
from optimize.execution import atomic
from optimize.manifest import Blob, digest_of
from optimize.registry.s3_errors import code_of, is_absent, reported
from optimize.registry.store import Entry, blob_key, damaged, missing

ONE_PUT_BYTES = 256 << 20
"""A file up to this size is uploaded from memory in one request, a larger one in parts."""

YOUNG_S = 3600.0
"""A whole object of up to this age is not uploaded again; files that no version names are collected far later."""

_AT_ONCE = 1  # pieces of a file that are in memory, since a process that serves downloads too
_CONFLICT_ATTEMPTS = 5
_CONDITION = "conditional"


def user_cache() -> Path:
    """The folder of this user's caches (XDG base directories)."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "proveserve"


class Bucket:
    """The objects of a registry below one prefix of a bucket.

    Raises:
        UserError: The URL names no bucket, there is none of that name, it cannot be reached, or access to it is refused.
    """

    def __init__(self, url: str) -> None:
        self._bucket, _, prefix = url.partition("://")[2].partition("/")
        if not self._bucket:
            raise UserError(f"{url}: names no bucket; wanted s3://bucket/prefix")
        self._prefix = prefix.strip("/")
        self._url = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self._blobs = user_cache() / "blobs" / "sha256"
        with reported(self._url):
            self._files = S3FileSystem(max_concurrency=_AT_ONCE, use_listings_cache=False, skip_instance_cache=True)
            self._call("list_objects_v2", Prefix=self._key(""), MaxKeys=1)

    @property
    def place(self) -> str:
        """The URL."""
        return self._url

    @property
    def scratch(self) -> Path:
        """A folder that all registries of this kind share: the names of its entries cover everything that they depend on."""
        return user_cache() / "exports"

    def at(self, key: str) -> str:
        """The URL of a key."""
        return f"{self._url}/{key}"

    def check(self) -> None:
        """Check that the store refuses the second of two conditional PUTs of the same object.

        Raises:
            UserError: The store ignores the condition, or nothing may be written.
        """
        self.create(_CONDITION, b"")
        if self.create(_CONDITION, b""):
            raise UserError(
                f"{self._url}: this store ignores `If-None-Match`, so that of two concurrent exports one would overwrite the other's"
                " version; wanted a store with conditional writes, as S3 has, or a folder"
            )

    def read(self, key: str) -> bytes | None:
        """The bytes of an object, or None."""
        with reported(self._url):
            try:
                data: bytes = self._files.cat_file(self.at(key))
            except OSError as error:
                if not is_absent(error):
                    raise
                return None
        return data

    def write(self, key: str, data: bytes) -> None:
        """Give an object these bytes."""
        with reported(self._url):
            self._files.pipe_file(self.at(key), data)

    def create(self, key: str, data: bytes) -> bool:
        """Create an object, or return False where there is one."""
        claim = uuid.uuid4().hex
        for _ in range(_CONFLICT_ATTEMPTS):
            with reported(self._url):
                match self._claimed(key, data, claim):
                    case "PreconditionFailed" | "412":
                        # A request whose answer was lost is sent again, and then finds the object that it created itself.
                        return bool(self._files.metadata(self.at(key)).get("claim") == claim)
                    case "ConditionalRequestConflict" | "409":
                        continue
                    case _:
                        return True
        raise ProveserveError(f"{self.at(key)}: other writers keep changing it; run the command again")

    def _claimed(self, key: str, data: bytes, claim: str) -> str | None:
        """The store's code for why it did not create an object; None where it did."""
        try:
            self._files.pipe_file(self.at(key), data, mode="create", Metadata={"claim": claim})
        except OSError as error:
            code = code_of(error)
            if code not in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                raise
            return code
        return None

    def entries(self, prefix: str) -> list[Entry]:
        """Every object below a prefix."""
        with reported(self._url):
            found: dict[str, Any] = self._files.find(self._url, prefix=f"{prefix}/", detail=True)
        start = len(f"{self._bucket}/{self._prefix}".rstrip("/")) + 1
        return [Entry(name[start:], details["LastModified"].timestamp()) for name, details in found.items()]

    def delete(self, key: str) -> None:
        """Delete an object."""
        with reported(self._url):
            self._call("delete_object", Key=self._key(key))

    def put(self, path: Path, digest: str) -> None:
        """Upload a file, unless the store has a whole and young copy; uploading it again makes it young."""
        with reported(self._url):
            if path.stat().st_size > ONE_PUT_BYTES:
                self._files.put_file(str(path), self.at(blob_key(digest)))
            elif not self._is_whole_and_young(digest):
                key, data = self._key(blob_key(digest)), path.read_bytes()
                self._call("put_object", Key=key, Body=data, ChecksumAlgorithm="SHA256")

    def _is_whole_and_young(self, digest: str) -> bool:
        """By the SHA-256 that the store computed itself; it has none of a whole file that came in parts."""
        try:
            head = self._call("head_object", Key=self._key(blob_key(digest)), ChecksumMode="ENABLED")
        except OSError as error:
            if not is_absent(error):
                raise
            return False
        whole: bool = head.get("ChecksumSHA256") == base64.b64encode(bytes.fromhex(digest)).decode()
        return whole and time.time() - head["LastModified"].timestamp() < YOUNG_S

    def fetch(self, blob: Blob) -> Path:
        """The file in this user's cache, downloaded where it is missing or damaged.

        Raises:
            ArtifactError: The object is missing, its bytes have another digest, or the cache cannot be written.
        """
        cached = self._blobs / blob.digest
        if cached.exists() and digest_of(cached) == blob.digest:
            return cached
        with atomic.reported(cached), atomic.replacing(cached) as temporary:
            with reported(self._url):
                try:
                    self._files.get_file(self.at(blob_key(blob.digest)), str(temporary))
                except OSError as error:
                    if not is_absent(error):
                        raise
                    raise missing(blob, self._url) from None
            found = digest_of(temporary)
            if found != blob.digest:
                raise damaged(blob, found)
        return cached

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}".lstrip("/")

    def _call(self, method: str, **arguments: object) -> Any:
        return self._files.call_s3(method, Bucket=self._bucket, **arguments)
