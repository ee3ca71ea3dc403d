"""What was computed before, named by everything it depends on.

Two kinds of entries stand side by side: folders of built files, keyed by source, configuration and tool versions; and measured
records, keyed by the machine as well. An entry appears whole or not at all, so a killed export repeats at most what was in flight.
What no run used for long can be swept away: an entry is as old as its last use.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")

UNUSED_DAYS = 30
"""Entries that nobody used for so long are swept away."""


def key_of(*parts: object) -> str:
    """SHA-256 over the canonical JSON of the parts (records, numbers, strings, lists, dicts)."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


class Cache:
    """Entries below one folder. With `reuse` off nothing is read from earlier runs, and what is computed replaces it."""

    def __init__(self, root: Path, *, reuse: bool = True) -> None:
        self.root = root
        self._reuse = reuse
        self._fresh: set[str] = set()
        self.hits: list[str] = []
        self.misses: list[str] = []

    def folder(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of that key; `build` fills a temporary one, which takes its place when it is complete."""
        target = self.root / kind / key
        if self._holds(kind, key, target):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key[:12]}.", dir=target.parent))
        try:
            build(temporary)
            if not self._reuse:
                shutil.rmtree(target, ignore_errors=True)
            _settle(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._fresh.add(f"{kind}/{key}")
        return target

    def record(self, kind: str, key: str, schema: type[T], measure: Callable[[], T]) -> T:
        """The record of that key, measured now where there is none."""
        target = self.root / kind / f"{key}.json"
        if self._holds(kind, key, target):
            try:
                return msgspec.json.decode(target.read_bytes(), type=schema)
            except msgspec.DecodeError:
                pass  # written by another release of this tool: measure it again
        value = measure()
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{key[:12]}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(value))
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
        self._fresh.add(f"{kind}/{key}")
        return value

    def _holds(self, kind: str, key: str, target: Path) -> bool:
        entry = f"{kind}/{key}"
        held = (self._reuse or entry in self._fresh) and _used(target)
        (self.hits if held else self.misses).append(entry)
        return held


def _used(target: Path) -> bool:
    """Whether an entry is there; it is used now, then."""
    try:
        os.utime(target)
    except FileNotFoundError:
        return False
    return True


def sweep(root: Path, *, unused_s: float) -> tuple[int, int]:
    """Delete the entries that no run used for so long, those that a killed run left unfinished included.

    Returns how many they were, and their bytes.
    """
    latest = time.time() - unused_s
    swept = size_bytes = 0
    for entry in root.glob("*/*"):
        with contextlib.suppress(FileNotFoundError):  # an export that runs meanwhile renames what it has finished
            if entry.lstat().st_mtime <= latest:
                size_bytes += _size_bytes(entry)
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                swept += 1
    return swept, size_bytes


def _size_bytes(entry: Path) -> int:
    files = [path for path in entry.rglob("*") if path.is_file()] if entry.is_dir() else [entry]
    return sum(path.lstat().st_size for path in files)


def _settle(temporary: Path, target: Path) -> None:
    try:
        temporary.replace(target)
    except OSError:
        if not target.exists():
            raise
        # Another run has built the same entry meanwhile: one is as good as the other.
