"""Local files that appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optimize.errors import ArtifactError


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A free path in the target's folder; the file there is removed unless it was renamed away.

    Raises:
        ArtifactError: The disk is full, or the folder cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"{target}: cannot be written: {error.strerror}; make room or mend the permissions, and run the command again"
        ) from error


def write(path: Path, data: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        flush(file.fileno())


def flush(descriptor: int) -> None:
    """Return when a file's bytes are on the disk."""
    os.fsync(descriptor)
