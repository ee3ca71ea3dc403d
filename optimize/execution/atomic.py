"""Local files that appear whole or not at all: written next to their place, flushed to the disk, and moved there.

A process that is killed leaves at most a temporary file, whose name starts with a dot, so that readers of folders pass it over.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optimize.errors import ArtifactError

TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to; at the end of the context, what was written there takes the place of `target`.

    Raises:
        OSError: It cannot be written or moved.
    """
    with _temporary(target) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(target)


@contextmanager
def creating(target: Path) -> Iterator[Path]:
    """A path to write to; at the end of the context, what was written there appears as `target`, if there is none yet.

    Raises:
        FileExistsError: `target` exists already; it is left unchanged.
        OSError: It cannot be written or linked.
    """
    with _temporary(target) as temporary:
        yield temporary
        _flush(temporary)
        os.link(temporary, target)


@contextmanager
def reported(target: Path) -> Iterator[None]:
    """Make the folder of `target`, and report a file that cannot be written in one sentence.

    Raises:
        ArtifactError: The disk is full, or the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ArtifactError(
            f"{target}: cannot be written: {error.strerror}; make room or fix the permissions, and run the command again"
        ) from error


def write(target: Path, data: bytes) -> None:
    """Give a file these bytes, whatever it held before.

    Raises:
        OSError: It cannot be written.
    """
    with replacing(target) as temporary:
        temporary.write_bytes(data)


def check_writable(folder: Path) -> None:
    """See that a file can be created in a folder.

    Raises:
        OSError: It cannot.
    """
    with _temporary(folder / "check") as temporary:
        temporary.touch()


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{target.name}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Return when a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
