"""A registry in a local folder.

A file is written next to its place and renamed; one that only one writer may make is linked into its place.
"""

import os
import shutil
from pathlib import Path

from optimize.execution import atomic
from optimize.manifest import Blob, digest_of
from optimize.registry.store import Entry, blob_key, damaged, missing

_CHUNK_BYTES = 1 << 20
_SCRATCH = ".cache"


class Folder:
    """The files of a registry below one folder, which is made when it is first written."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def place(self) -> str:
        """The absolute folder."""
        return str(self._root)

    @property
    def scratch(self) -> Path:
        """A folder inside the registry, so that both are moved and deleted together."""
        return self._root / _SCRATCH

    def at(self, key: str) -> str:
        """The path of a key."""
        return str(self._root / key)

    def check(self) -> None:
        """Make the folder, and see that a file can be written there.

        Raises:
            ArtifactError: It cannot.
        """
        with atomic.reported(self._root / "models"):
            atomic.check_writable(self._root)

    def read(self, key: str) -> bytes | None:
        """The bytes of a file, or None."""
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, key: str, data: bytes) -> None:
        """Give a file these bytes.

        Raises:
            ArtifactError: The disk is full, or the folder cannot be written.
        """
        target = self._root / key
        with atomic.reported(target):
            atomic.write(target, data)

    def create(self, key: str, data: bytes) -> bool:
        """Create a file, or return False where there is one.

        Raises:
            ArtifactError: The disk is full, or the folder cannot be written.
        """
        target = self._root / key
        with atomic.reported(target):
            try:
                with atomic.creating(target) as temporary:
                    temporary.write_bytes(data)
            except FileExistsError:
                return False
        return True

    def entries(self, prefix: str) -> list[Entry]:
        """Every file below a folder."""
        found = []
        for folder, _, names in os.walk(self._root / prefix):
            for name in names:
                path = Path(folder, name)
                try:
                    modified_s = path.stat().st_mtime
                except FileNotFoundError:
                    continue  # a temporary file that was renamed meanwhile
                found.append(Entry(path.relative_to(self._root).as_posix(), modified_s))
        return found

    def delete(self, key: str) -> None:
        """Delete a file."""
        (self._root / key).unlink(missing_ok=True)

    def put(self, path: Path, digest: str) -> None:
        """Keep a copy of a file; where there is a whole one already, only its time is renewed.

        Raises:
            ArtifactError: The disk is full, or the folder cannot be written.
        """
        target = self._root / blob_key(digest)
        if not target.exists() or digest_of(target) != digest:
            with atomic.reported(target), atomic.replacing(target) as temporary:
                _copy(path, temporary)
        target.touch()

    def fetch(self, blob: Blob) -> Path:
        """The file itself.

        Raises:
            ArtifactError: It is missing, or its bytes have another digest.
        """
        path = self._root / blob_key(blob.digest)
        if not path.exists():
            raise missing(blob, self.place)
        found = digest_of(path)
        if found != blob.digest:
            raise damaged(blob, found)
        return path


def _copy(path: Path, target: Path) -> None:
    with path.open("rb") as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, _CHUNK_BYTES)
