from pathlib import Path

import pytest

from optimize.errors import ArtifactError
from optimize.execution import atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    for data in (b"a long first text", b"short"):
        atomic.write(target, data)
        assert target.read_bytes() == data
    assert names(tmp_path) == ["file"]


def test_nothing_is_seen_until_the_end(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"before")
    with atomic.replacing(target) as temporary:
        temporary.write_bytes(b"after")
        assert temporary.name.startswith(atomic.TEMPORARY_PREFIX)
        assert target.read_bytes() == b"before"
    assert target.read_bytes() == b"after"


@pytest.mark.parametrize("context", [atomic.replacing, atomic.creating])
def test_a_failure_leaves_nothing(tmp_path: Path, context: type) -> None:
    def fail() -> None:
        with context(tmp_path / "file") as temporary:
            temporary.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_a_write_over_a_folder_fails_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OSError, match="there"):
        atomic.write(tmp_path / "there", b"text")
    assert names(tmp_path) == ["there"]


def test_a_file_is_created_once(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with atomic.creating(target) as temporary:
        temporary.write_bytes(b"first")
    with pytest.raises(FileExistsError), atomic.creating(target) as temporary:
        temporary.write_bytes(b"second")
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "deep" / "target"
    with pytest.raises(ArtifactError, match="cannot be written: Not a directory; make room"), atomic.reported(target):
        atomic.write(target, b"text")
