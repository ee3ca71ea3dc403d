"""Results of earlier runs, by their keys (:mod:`optimize.execution.keys`).

There are two kinds of entries: folders of files, and records. An entry appears whole or not at all, so a killed export repeats at most
what was in flight. Entries that no run used for a long time can be deleted: an entry is as old as its last use.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from optimize.execution.atomic import replacing

T = TypeVar("T")

UNUSED_DAYS = 30
"""Entries that no run used for this long can be deleted."""


class Cache:
    """Entries below one folder. With `reuse` off, entries of earlier runs are not read but replaced."""

    def __init__(self, root: Path, *, reuse: bool = True) -> None:
        self.root = root
        self._reuse = reuse
        self._fresh: set[str] = set()

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
        with replacing(target) as temporary:
            temporary.write_bytes(msgspec.json.encode(value))
        self._fresh.add(f"{kind}/{key}")
        return value

    def _holds(self, kind: str, key: str, target: Path) -> bool:
        return (self._reuse or f"{kind}/{key}" in self._fresh) and _used(target)


def _used(target: Path) -> bool:
    """Whether an entry exists; if so, mark it as used now."""
    try:
        os.utime(target)
    except FileNotFoundError:
        return False
    return True


def sweep(root: Path, *, unused_s: float) -> tuple[int, int]:
    """Delete the entries that no run used for that long, and what killed runs left unfinished; return their number and bytes."""
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
        # Another run has built the same entry meanwhile, and either will do.
