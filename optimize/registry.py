"""Published versions: content-addressed files, and manifests that name them.

    <root>/blobs/sha256/<digest>                   a file
    <root>/models/<name>/<version>/manifest.json   a version: 1, 2, 3 ...
    <root>/models/<name>/current                   the number of the version that is served
    <root>/reports/<name>/result.json              the outcome of the last export, published or not

A file appears whole or not at all: it is written beside its place, flushed, and renamed. A version number is claimed by linking its
manifest into place, which only one writer can do. A killed export leaves at most stray temporary files, which no reader looks at.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from optimize.budgets import Budgets
from optimize.errors import ArtifactError, BudgetsError
from optimize.manifest import Blob, Manifest, Result, decode, decode_result, digest_of, encode

_CHUNK_BYTES = 1 << 20


def location(budgets_path: Path, budgets: Budgets) -> Path:
    """The registry that a budgets file names, relative to that file.

    Raises:
        BudgetsError: It names a store that is not a folder.
    """
    if "://" in budgets.registry:
        raise BudgetsError(f"{budgets_path}: registry = {budgets.registry!r}: wanted a folder, relative to this file")
    return (budgets_path.parent / budgets.registry).absolute()


class Registry:
    """A registry in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def versions(self, model: str) -> list[int]:
        """Published versions of a model, ascending; empty where there are none."""
        folder = self.root / "models" / model
        if not folder.is_dir():
            return []
        return sorted(
            int(entry.name) for entry in folder.iterdir() if entry.name.isdigit() and (entry / "manifest.json").exists()
        )

    def models(self) -> list[str]:
        """Names of the models that have a current version."""
        folder = self.root / "models"
        return (
            sorted(entry.name for entry in folder.iterdir() if (entry / "current").exists()) if folder.is_dir() else []
        )

    def current(self, model: str) -> int | None:
        """The version that is served, or None."""
        try:
            text = (self.root / "models" / model / "current").read_text().strip()
        except FileNotFoundError:
            return None
        if not text.isdigit():
            raise ArtifactError(f"{model}: `current` says {text!r}; wanted a version number such as 1")
        return int(text)

    def manifest_path(self, model: str, version: int) -> Path:
        """Where a version's manifest stands."""
        return self.root / "models" / model / str(version) / "manifest.json"

    def load(self, model: str, version: int | None = None) -> Manifest:
        """The manifest of a version (of the current one by default).

        Raises:
            ArtifactError: There is no such version, or its manifest is damaged.
        """
        chosen = self.current(model) if version is None else version
        path = self.manifest_path(model, chosen) if chosen is not None else None
        if path is None or not path.exists():
            have = ", ".join(map(str, self.versions(model))) or "none"
            raise ArtifactError(
                f"{model}: no {'current version' if version is None else f'version {version}'} in {self.root} (published: {have});"
                " publish one with `optimize export`"
            )
        return decode(path.read_bytes(), str(path))

    def blob(self, blob: Blob) -> Path:
        """The file of a blob, after its bytes were held against its digest.

        Raises:
            ArtifactError: The file is missing, or its bytes have another digest.
        """
        path = self.root / "blobs" / "sha256" / blob.digest
        if not path.exists():
            raise ArtifactError(
                f"{blob.name}: blob {blob.digest[:12]} is missing from {self.root}; export the model again"
            )
        found = digest_of(path)
        if found != blob.digest:
            raise ArtifactError(
                f"{blob.name}: its bytes have digest {found[:12]}, its manifest says {blob.digest[:12]}; the file was changed or"
                " damaged: export the model again"
            )
        return path

    def model_file(self, manifest: Manifest) -> Path:
        """The checked model file of a version; files that it refers to are checked as well."""
        model, *others = [self.blob(blob) for blob in manifest.artifact.files]
        del others  # external data: checked, and found by onnxruntime beside the model under its digest
        return model

    def put(self, path: Path, name: str) -> Blob:
        """Store a file under its digest; a blob that is there already and whole is left alone.

        Raises:
            ArtifactError: The disk is full, or the registry cannot be written.
        """
        digest = digest_of(path)
        blob = Blob(name, digest, path.stat().st_size)
        target = self.root / "blobs" / "sha256" / digest
        if not target.exists() or digest_of(target) != digest:
            with path.open("rb") as source, _beside(target) as temporary:
                with temporary.open("wb") as sink:
                    shutil.copyfileobj(source, sink, _CHUNK_BYTES)
                    _flush(sink.fileno())
                temporary.replace(target)
        return blob

    def publish(self, manifest: Manifest) -> Manifest:
        """Claim the next version number for a manifest whose blobs are stored, and make it current.

        Returns the manifest as published, with its number.

        Raises:
            ArtifactError: The disk is full, or the registry cannot be written.
        """
        version = max(self.versions(manifest.model), default=0) + 1
        while True:
            numbered = msgspec.structs.replace(manifest, version=version)
            target = self.manifest_path(manifest.model, version)
            with _beside(target) as temporary:
                _write(temporary, encode(numbered))
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    version += 1
                    continue
            self.promote(manifest.model, version)
            return numbered

    def keep(self, result: Result) -> Path:
        """Keep the outcome of an export, in place of the model's earlier one, for reports."""
        target = self.root / "reports" / result.name / "result.json"
        with _beside(target) as temporary:
            _write(temporary, encode(result))
            temporary.replace(target)
        return target

    def result(self, model: str) -> Result | None:
        """The outcome of a model's last export, or None where there was none.

        Raises:
            ArtifactError: Its file is damaged, or was written by another release.
        """
        path = self.root / "reports" / model / "result.json"
        return decode_result(path.read_bytes(), str(path)) if path.exists() else None

    def promote(self, model: str, version: int) -> None:
        """Make a published version the one that is served."""
        self.load(model, version)
        target = self.root / "models" / model / "current"
        with _beside(target) as temporary:
            _write(temporary, f"{version}\n".encode())
            temporary.replace(target)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
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


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        _flush(file.fileno())


def _flush(descriptor: int) -> None:
    os.fsync(descriptor)
