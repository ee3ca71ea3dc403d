"""What a registry asks of the place where its files are.

Keys are paths below the registry, with `/` between their parts. What a key names is whole, or is not there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from optimize.errors import ArtifactError
from optimize.manifest import Blob

BLOBS = "blobs/sha256"


def blob_key(digest: str) -> str:
    """Where the file with a digest is kept."""
    return f"{BLOBS}/{digest}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that is there, and when it was last written, in seconds since 1970."""

    key: str
    modified_s: float

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.key.rpartition("/")[2]


class Store(Protocol):
    """A folder or a bucket."""

    @property
    def place(self) -> str:
        """The absolute folder or the URL that opens the same store again."""

    @property
    def scratch(self) -> Path:
        """A folder of this machine, for what an export builds and measures on the way."""

    def at(self, key: str) -> str:
        """A key as people and other tools name it: a path or a URL."""

    def check(self) -> None:
        """Raise what would keep a version from being published here, before the work for it is done."""

    def read(self, key: str) -> bytes | None:
        """The bytes of a key, or None."""

    def write(self, key: str, data: bytes) -> None:
        """Let a key have these bytes, whatever it had before."""

    def create(self, key: str, data: bytes) -> bool:
        """Let a key appear with these bytes, or return False where it is there already. Of several writers one succeeds."""

    def entries(self, prefix: str) -> list[Entry]:
        """Every file below a prefix, those that are still being written included: their names start with a dot."""

    def delete(self, key: str) -> None:
        """Let a key be gone."""

    def put(self, path: Path, digest: str) -> None:
        """Keep a file under its digest, young enough that nobody collects it before a version names it."""

    def fetch(self, blob: Blob) -> Path:
        """The local file of a blob, under its digest, once its bytes were held against it.

        Raises:
            ArtifactError: The blob is missing, or its bytes have another digest.
        """


def missing(blob: Blob, place: str) -> ArtifactError:
    """The error for a blob that is not there."""
    return ArtifactError(f"{blob.name}: blob {blob.digest[:12]} is missing from {place}; export the model again")


def damaged(blob: Blob, found: str) -> ArtifactError:
    """The error for a blob whose bytes have another digest."""
    return ArtifactError(
        f"{blob.name}: its bytes have digest {found[:12]}, its manifest says {blob.digest[:12]}; the file was changed or"
        " damaged: export the model again"
    )
