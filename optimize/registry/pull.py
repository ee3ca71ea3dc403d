"""Fetch one version out of a registry into a folder that is a registry of its own."""

import tempfile
from pathlib import Path

from optimize.errors import ArtifactError, UserError
from optimize.registry.versions import Registry


def pull(source: Registry, model: str, version: int | None, folder: Path) -> int:
    """Fetch a version (the current one by default), and return its number; `folder` appears whole or not at all.

    Raises:
        UserError: The folder is there already and is not empty.
        ArtifactError: There is no such version, one of its files is missing or damaged, or the folder cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; name a new folder")
    manifest = source.load(model, version)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True
        ) as name:
            fetched = Path(name) / folder.name
            source.copy(manifest, Registry(fetched))
            fetched.rename(folder)
    except OSError as error:
        raise ArtifactError(
            f"{folder}: cannot be written: {error.strerror}; make room or fix the permissions, and run the command again"
        ) from error
    return manifest.version
