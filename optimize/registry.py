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
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from optimize.budgets import Budgets
from optimize.errors import ArtifactError, BudgetsError, Exit
from optimize.manifest import Blob, Machine, Manifest, Result, decode, decode_result, digest_of, encode

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
        target.touch()  # young again, so that nobody collects it before a version names it
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

    def rollback(self, model: str) -> int:
        """Serve the version before the current one again, and return its number.

        Raises:
            ArtifactError: There is no current version, or none before it.
        """
        current = self.current(model)
        earlier = [version for version in self.versions(model) if current is not None and version < current]
        if not earlier:
            raise ArtifactError(
                f"{model}: no version before {current or 'a current one'} in {self.root}; nothing to go back to"
            )
        self.promote(model, earlier[-1])
        return earlier[-1]

    def collect(self, *, older_than_s: float) -> list[Path]:
        """Delete what no published version names and what a killed run left half-written, and return what was deleted.

        Files younger than `older_than_s` seconds stay: a run may be about to name them.
        """
        named = {
            blob.digest
            for name in self._published()
            for version in self.versions(name)
            for blob in self._blobs(name, version)
        }
        folder = self.root / "blobs" / "sha256"
        blobs = [path for path in folder.iterdir() if path.name not in named] if folder.is_dir() else []
        stray = [path for path in self.root.glob("models/*/**/.*") if path.is_file()]
        youngest = time.time() - older_than_s
        deleted = [path for path in (*blobs, *stray) if path.stat().st_mtime <= youngest]
        for path in deleted:
            path.unlink(missing_ok=True)
        return deleted

    def _published(self) -> list[str]:
        folder = self.root / "models"
        return [entry.name for entry in folder.iterdir() if self.versions(entry.name)] if folder.is_dir() else []

    def _blobs(self, model: str, version: int) -> tuple[Blob, ...]:
        manifest = self.load(model, version)
        return (*manifest.artifact.files, manifest.golden.blob)

    def keep_judgement(self, version: int, result: Result) -> Path:
        """Keep what `optimize validate` found of a version on this machine, beside its manifest."""
        if result.machine is None:
            raise ArtifactError(f"{result.name}: the judgement names no machine; judge the version again")
        target = self._judgement_path(result.name, version, result.machine)
        with _beside(target) as temporary:
            _write(temporary, encode(result))
            temporary.replace(target)
        return target

    def measured_on(self, manifest: Manifest, machine: Machine) -> bool:
        """Whether a version was measured on a machine like this one: where it was exported, or where it was validated since."""
        if manifest.machine.kind == machine.kind:
            return True
        path = self._judgement_path(manifest.model, manifest.version, machine)
        return path.exists() and decode_result(path.read_bytes(), str(path)).exit == Exit.OK

    def _judgement_path(self, model: str, version: int, machine: Machine) -> Path:
        return self.manifest_path(model, version).with_name(f"validated-{machine.kind}.json")

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
