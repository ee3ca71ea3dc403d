import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from optimize.execution import cache
from optimize.execution.cache import Cache, sweep


class Found(msgspec.Struct, frozen=True):
    value: int


def counted(value: int = 1) -> tuple[Callable[[], Found], list[int]]:
    """A measurement, and the calls it had."""
    calls: list[int] = []

    def measure() -> Found:
        calls.append(value)
        return Found(value)

    return measure, calls


def writes(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "file").write_text(text) and None


def entries(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_second_run_measures_nothing(tmp_path: Path) -> None:
    measure, calls = counted()
    for _ in range(2):
        assert Cache(tmp_path).record("measured", "a" * 64, Found, measure) == Found(1)
    assert calls == [1]


def test_without_reuse_an_entry_is_computed_once_a_run_and_replaced(tmp_path: Path) -> None:
    Cache(tmp_path).folder("built", "b", writes("old"))
    Cache(tmp_path).record("measured", "a", Found, lambda: Found(1))
    cache = Cache(tmp_path, reuse=False)
    measure, calls = counted(2)
    for _ in range(2):
        assert cache.record("measured", "a", Found, measure) == Found(2)
        assert (cache.folder("built", "b", writes("new")) / "file").read_text() == "new"
    assert calls == [2]
    assert Cache(tmp_path).record("measured", "a", Found, measure) == Found(2)


def test_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Cache(tmp_path).folder("built", "b", fails)
    assert list((tmp_path / "built").iterdir()) == []
    assert (Cache(tmp_path).folder("built", "b", writes("x")) / "file").read_text() == "x"


def test_failed_measurement_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails() -> Found:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Cache(tmp_path).record("measured", "a", Found, fails)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"other": 1}', b'{"value": "text"}'])
def test_record_of_another_release_is_measured_again(tmp_path: Path, content: bytes) -> None:
    cache = Cache(tmp_path)
    cache.record("measured", "a", Found, lambda: Found(1))
    (tmp_path / "measured" / "a.json").write_bytes(content)
    assert Cache(tmp_path).record("measured", "a", Found, lambda: Found(2)) == Found(2)
    assert Cache(tmp_path).record("measured", "a", Found, lambda: Found(3)) == Found(2)


def test_two_runs_that_build_the_same_entry_at_once_share_it(tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=30)
    found: list[Path] = []

    def build(folder: Path) -> None:
        (folder / "file").write_text("x")
        together.wait()

    def run() -> None:
        found.append(Cache(tmp_path).folder("built", "b", build))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "built" / "b"] * 2
    assert entries(tmp_path) == ["built/b/file"]


def aged(path: Path, days: float) -> Path:
    then = time.time() - days * 86_400
    os.utime(path, (then, then))
    return path


def test_entries_that_no_run_used_for_a_long_time_are_deleted(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for age, key in ((31, "a" * 64), (29, "b" * 64)):
        aged(cache.folder("built", key, writes("four")), age)
        cache.record("measured", key, Found, counted()[0])
        aged(tmp_path / "measured" / f"{key}.json", age)
    killed = tmp_path / "built" / ".cccccccccccc.left"
    killed.mkdir()
    (killed / "half").write_text("half")
    aged(killed, 31)
    assert sweep(tmp_path, unused_s=30 * 86_400) == (3, 4 + 4 + len('{"value":1}'))
    assert entries(tmp_path) == [f"built/{'b' * 64}/file", f"measured/{'b' * 64}.json"]
    assert sweep(tmp_path / "nothing was ever cached here", unused_s=0) == (0, 0)


def test_entry_that_a_running_export_removes_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "measured").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / "measured" / name).write_text("{}")
        aged(tmp_path / "measured" / name, 31)
    size = cache._size_bytes

    def vanishing(entry: Path) -> int:
        if entry.name == "a.json":
            entry.unlink()
        return size(entry)

    monkeypatch.setattr(cache, "_size_bytes", vanishing)
    assert sweep(tmp_path, unused_s=30 * 86_400) == (1, 2)


def test_an_entry_is_as_old_as_its_last_use(tmp_path: Path) -> None:
    built = Cache(tmp_path).folder("built", "a" * 64, writes("one"))
    Cache(tmp_path).record("measured", "a" * 64, Found, counted()[0])
    for path in (built, tmp_path / "measured" / f"{'a' * 64}.json"):
        aged(path, 31)
    Cache(tmp_path).folder("built", "a" * 64, writes("two"))
    Cache(tmp_path).record("measured", "a" * 64, Found, counted()[0])
    assert sweep(tmp_path, unused_s=30 * 86_400) == (0, 0)
