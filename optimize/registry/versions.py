"""The rules of a registry, in a folder or a bucket: numbering, publishing, rolling back, collecting."""

import contextlib
import re
import time
from pathlib import Path

import msgspec

from optimize.budgets import Budgets
from optimize.errors import ArtifactError, Exit, UserError
from optimize.manifest import Blob, Machine, Manifest, Result, decode, decode_result, digest_of, encode
from optimize.registry.folder import Folder
from optimize.registry.store import BLOBS, Entry, Store

_MODELS, _REPORTS = "models", "reports"
_VERSION = re.compile(rf"{_MODELS}/([^/]+)/([1-9][0-9]*)/manifest\.json")
_CURRENT = re.compile(rf"{_MODELS}/([^/]+)/current")


def location(budgets_path: Path, budgets: Budgets) -> str:
    """The registry that a budgets file names: a URL, or a folder relative to that file."""
    named = budgets.registry
    return named if "://" in named else str((budgets_path.parent / named).absolute())


def _opened(place: Path | str) -> Store:
    scheme, separator, _ = str(place).partition("://")
    if not separator:
        return Folder(Path(place))
    if scheme != "s3":
        raise UserError(
            f"{place}: a {scheme} store may let several writers create the same file, and version numbers rely on one;"
            " wanted a folder, or s3://bucket/prefix"
        )
    try:
        from optimize.registry.bucket import Bucket  # noqa: PLC0415 - the extra `s3`, which folders do without
    except ModuleNotFoundError as error:
        raise UserError(
            f"{place}: {error.name} is not installed, and a registry in a bucket needs it; install proveserve[s3]"
        ) from None
    return Bucket(str(place))


class Registry:
    """The registry in a folder, or at a URL."""

    def __init__(self, place: Path | str) -> None:
        self._store = _opened(place)

    @property
    def place(self) -> str:
        """The absolute folder or the URL that opens the same registry."""
        return self._store.place

    @property
    def scratch(self) -> Path:
        """A folder on this machine for the intermediate files of exports to this registry."""
        return self._store.scratch

    def check(self) -> None:
        """Find out early whether a version can be published here.

        Raises:
            ProveserveError: It cannot.
        """
        self._store.check()

    def versions(self, model: str) -> list[int]:
        """Published versions of a model, ascending; empty where there are none."""
        return sorted(version for _, version in self._published(model))

    def models(self) -> list[str]:
        """Names of the models that have a current version."""
        keys = (entry.key for entry in self._store.entries(_MODELS))
        return sorted(found[1] for key in keys if (found := _CURRENT.fullmatch(key)))

    def current(self, model: str) -> int | None:
        """The version that is served, or None.

        Raises:
            ArtifactError: The file that names it is damaged.
        """
        data = self._store.read(f"{_MODELS}/{model}/current")
        if data is None:
            return None
        text = data.decode(errors="replace").strip()
        if not (text.isascii() and text.isdigit()):
            raise ArtifactError(
                f"{model}: `current` says {text!r}; wanted a version number such as 1: name one with `optimize promote`"
            )
        return int(text)

    def manifest_path(self, model: str, version: int) -> str:
        """The path or the URL of a version's manifest."""
        return self._store.at(_manifest_key(model, version))

    def load(self, model: str, version: int | None = None) -> Manifest:
        """The manifest of a version (of the current one by default).

        Raises:
            ArtifactError: There is no such version, or its manifest is damaged.
        """
        chosen = self.current(model) if version is None else version
        data = None if chosen is None else self._store.read(_manifest_key(model, chosen))
        if chosen is None or data is None:
            have = ", ".join(map(str, self.versions(model))) or "none"
            raise ArtifactError(
                f"{model}: no {'current version' if version is None else f'version {version}'} in {self.place} (published: {have});"
                " publish one with `optimize export`"
            )
        return decode(data, self.manifest_path(model, chosen))

    def blob(self, blob: Blob) -> Path:
        """A local file of a blob, after a check of its bytes against its digest.

        Raises:
            ArtifactError: The file is missing, or its bytes have another digest.
        """
        return self._store.fetch(blob)

    def model_file(self, manifest: Manifest) -> Path:
        """The checked model file of a version; files that it refers to are checked as well."""
        model, *others = [self.blob(blob) for blob in manifest.artifact.files]
        del others  # external data: checked, and found by onnxruntime next to the model, under its digest
        return model

    def put(self, path: Path, name: str) -> Blob:
        """Store a file under its digest.

        Raises:
            ArtifactError: The disk is full, or the registry cannot be written.
        """
        blob = Blob(name, digest_of(path), path.stat().st_size)
        self._store.put(path, blob.digest)
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
            if self._store.create(_manifest_key(manifest.model, version), encode(numbered)):
                self._serve_newest(manifest.model, version)
                return numbered
            version += 1

    def _serve_newest(self, model: str, version: int) -> None:
        """Make a version that was just claimed current, or a higher one that others have claimed since.

        Every publisher looks again after its write, so the highest number is written last: it was claimed either before that
        look, which then finds it, or after it, and then its own publisher writes later.
        """
        while True:
            self._point_to(model, version)
            newest = max(self.versions(model), default=version)
            if newest <= version:
                return
            version = newest

    def promote(self, model: str, version: int) -> None:
        """Make a published version the one that is served."""
        self.load(model, version)
        self._point_to(model, version)

    def rollback(self, model: str) -> int:
        """Make the version before the current one current, and return its number.

        Raises:
            ArtifactError: There is no current version, or none before it.
        """
        current = self.current(model)
        earlier = [version for version in self.versions(model) if current is not None and version < current]
        if not earlier:
            raise ArtifactError(
                f"{model}: no version before {current or 'a current one'} in {self.place}; nothing to roll back to"
            )
        self.promote(model, earlier[-1])
        return earlier[-1]

    def _point_to(self, model: str, version: int) -> None:
        self._store.write(f"{_MODELS}/{model}/current", f"{version}\n".encode())

    def copy(self, manifest: Manifest, target: "Registry") -> None:
        """Copy a version into another registry, with all its files and what was found of it elsewhere, and make it current there.

        Raises:
            ArtifactError: A file is missing, its bytes have another digest, or the target cannot be written.
        """
        for blob in manifest.blobs:
            target.put(self.blob(blob), blob.name)
            target.blob(blob)
        for entry in self._store.entries(f"{_MODELS}/{manifest.model}/{manifest.version}"):
            data = None if entry.name.startswith(".") else self._store.read(entry.key)
            if data is not None:
                target._store.create(entry.key, data)
        target.promote(manifest.model, manifest.version)

    def keep(self, result: Result) -> None:
        """Keep the outcome of an export for reports, in place of the earlier one; a partial run's never replaces a full one's."""
        if result.release or not self._holds_full(result.name):
            self._store.write(_result_key(result.name), encode(result))

    def _holds_full(self, model: str) -> bool:
        try:
            earlier = self.result(model)
        except ArtifactError:
            return False
        return earlier is not None and earlier.release

    def result(self, model: str) -> Result | None:
        """The outcome of a model's last export, or None where there was none.

        Raises:
            ArtifactError: Its file is damaged, or was written by another release.
        """
        key = _result_key(model)
        data = self._store.read(key)
        return None if data is None else decode_result(data, self._store.at(key))

    def keep_judgement(self, version: int, result: Result) -> None:
        """Keep what `optimize validate` found for a version on this machine, next to its manifest."""
        if result.machine is None:
            raise ArtifactError(f"{result.name}: the judgement names no machine; judge the version again")
        self._store.write(_judgement_key(result.name, version, result.machine), encode(result))

    def judgements(self, model: str, version: int) -> list[Result]:
        """What `optimize validate` found for a version, one result per machine, the latest first.

        Results of another release are left out: their verdicts may rest on other rules.
        """
        found = []
        for key in (entry.key for entry in self._store.entries(f"{_MODELS}/{model}/{version}") if _is_judgement(entry)):
            data = self._store.read(key)
            if data is not None:
                with contextlib.suppress(ArtifactError):
                    found.append(decode_result(data, self._store.at(key)))
        return sorted(found, key=lambda result: result.created, reverse=True)

    def measured_on(self, manifest: Manifest, machine: Machine) -> bool:
        """Whether a version was measured on a machine like this one: where it was exported, or where it was validated since."""
        if manifest.machine.kind == machine.kind:
            return True
        key = _judgement_key(manifest.model, manifest.version, machine)
        data = self._store.read(key)
        return data is not None and decode_result(data, self._store.at(key)).exit == Exit.OK

    def collect(self, *, older_than_s: float) -> list[str]:
        """Delete files that no published version names and those that a killed run left unfinished, and return their places.

        Files younger than `older_than_s` seconds stay: a run may be about to name them.
        """
        published = [self.load(model, version) for model, version in self._published()]
        named = {blob.digest for manifest in published for blob in manifest.blobs}
        unnamed = [entry for entry in self._store.entries(BLOBS) if entry.name not in named]
        kept = (*self._store.entries(_MODELS), *self._store.entries(_REPORTS))
        unfinished = [entry for entry in kept if entry.name.startswith(".")]
        youngest = time.time() - older_than_s
        old = [entry.key for entry in (*unnamed, *unfinished) if entry.modified_s <= youngest]
        for key in old:
            self._store.delete(key)
        return [self._store.at(key) for key in old]

    def _published(self, model: str | None = None) -> list[tuple[str, int]]:
        """Model and number of every version, or of one model's."""
        entries = self._store.entries(_MODELS if model is None else f"{_MODELS}/{model}")
        return [(found[1], int(found[2])) for entry in entries if (found := _VERSION.fullmatch(entry.key))]


def _manifest_key(model: str, version: int) -> str:
    return f"{_MODELS}/{model}/{version}/manifest.json"


def _judgement_key(model: str, version: int, machine: Machine) -> str:
    return f"{_MODELS}/{model}/{version}/validated-{machine.kind}.json"


def _is_judgement(entry: Entry) -> bool:
    return entry.name.startswith("validated-") and entry.name.endswith(".json")


def _result_key(model: str) -> str:
    return f"{_REPORTS}/{model}/result.json"
