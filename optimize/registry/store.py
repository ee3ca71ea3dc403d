"""The operations that a registry needs of the place of its files.

Keys are paths below the registry, with `/` between their parts. A key names a whole file, or none.
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
    """A file, and when it was last written, in seconds since 1970."""

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
        """The absolute folder or the URL that opens the same store."""

    @property
    def scratch(self) -> Path:
        """A folder on this machine for the intermediate files of exports."""

    def at(self, key: str) -> str:
        """The path or the URL of a key."""

    def check(self) -> None:
        """Find out early whether a version can be published here.

        Raises:
            ProveserveError: It cannot.
        """

    def read(self, key: str) -> bytes | None:
        """The bytes of a key, or None."""

    def write(self, key: str, data: bytes) -> None:
        """Give a key these bytes, whatever it had before."""

    def create(self, key: str, data: bytes) -> bool:
        """Create a key with these bytes, or return False where it exists. Of several writers, one succeeds."""

    def entries(self, prefix: str) -> list[Entry]:
        """Every file below a prefix, including those that are still being written, whose names start with a dot."""

    def delete(self, key: str) -> None:
        """Delete a key."""

    def put(self, path: Path, digest: str) -> None:
        """Keep a file under its digest, as a young file, so that it is not collected before a version names it."""

    def fetch(self, blob: Blob) -> Path:
        """The local file of a blob, after a check of its bytes against its digest.

        Raises:
            ArtifactError: The blob is missing, or its bytes have another digest.
        """


def missing(blob: Blob, place: str) -> ArtifactError:
    """The error for a blob that is missing."""
    return ArtifactError(f"{blob.name}: blob {blob.digest[:12]} is missing from {place}; export the model again")


def damaged(blob: Blob, found: str) -> ArtifactError:
    """The error for a blob whose bytes have another digest."""
    return ArtifactError(
        f"{blob.name}: its bytes have digest {found[:12]}, its manifest says {blob.digest[:12]}; the file was changed or"
        " damaged: export the model again"
    )
