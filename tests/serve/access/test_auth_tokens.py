import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from optimize.errors import UserError
from serve import logs
from serve.access import auth_tokens, watched_files
from serve.access.auth import AuthTokens, digest_of
from serve.access.auth_tokens import AuthTokensFile
from tests.serving import COMMAND


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def pass_period(self) -> None:
        self.now_s += watched_files.CHECK_PERIOD_S


def line(name: str, token: str) -> str:
    return f"{name} {digest_of(token).hex()} *\n"


def replace(path: Path, text: str) -> None:
    """As deployments do it: whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, object]]]:
    lines: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(logs, "event", lambda name, *_, **fields: lines.append((name, fields)))
    return lines


def test_a_changed_file_is_read_again(tmp_path: Path, said: list) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("a", "one"))
    clock = Clock()
    file = AuthTokensFile(path, clock)
    replace(path, line("b", "two"))
    assert file.current().identify("one"), "the file is not looked at on every call"
    clock.pass_period()
    assert file.current().identify("one") is None
    assert file.current().identify("two")
    assert [event for event, _ in said] == ["tokens_changed"]


def test_a_change_in_place_of_the_same_length_is_seen(tmp_path: Path, said: list) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("a", "one"))
    clock = Clock()
    file = AuthTokensFile(path, clock)
    before = path.stat().st_mtime_ns
    path.write_text(line("a", "two"))
    os.utime(path, ns=(before, before))
    clock.pass_period()
    assert file.current().identify("two")


@pytest.mark.parametrize("how", ["broken", "gone", "a folder"])
def test_a_change_that_breaks_the_file_keeps_the_old_tokens_and_is_logged_once(
    tmp_path: Path, said: list, how: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("a", "one"))
    clock = Clock()
    file = AuthTokensFile(path, clock)
    path.unlink()
    if how == "broken":
        path.write_text("a plain-token digits\n")
    elif how == "a folder":
        path.mkdir()
    for _ in range(3):
        clock.pass_period()
        assert file.current().identify("one")
    assert [event for event, _ in said] == ["tokens_refused"]
    assert str(path) in said[0][1]["reason"]
    assert "plain-token" not in str(said)
    if how == "a folder":
        path.rmdir()
    replace(path, line("a", "three"))
    clock.pass_period()
    assert file.current().identify("three")
    assert file.current().identify("one") is None


def test_an_emptied_file_refuses_every_call(tmp_path: Path, said: list) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("a", "one"))
    clock = Clock()
    file = AuthTokensFile(path, clock)
    path.write_text("")
    clock.pass_period()
    assert file.current() == AuthTokens(())


def test_a_missing_or_unreadable_file_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file or directory; make a tokens file"):
        AuthTokensFile(tmp_path / "none")
    (tmp_path / "image").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UserError, match="is no UTF-8 text"):
        AuthTokensFile(tmp_path / "image")


def test_an_added_token_is_known_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first = auth_tokens.add(path, "ci", ["digits", "sentiment"])
    path.write_text(path.read_text().rstrip("\n"))  # as an editor may leave it
    second = auth_tokens.add(path, "ops", [])
    assert first != second
    assert len(first) >= 43  # 256 bits
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert first not in text
    assert hashlib.sha256(first.encode()).hexdigest() in text
    found = auth_tokens.read(path)
    assert found.identify(first).models == {"digits", "sentiment"}
    assert found.identify(second).models == {"*"}


@pytest.mark.parametrize(("name", "models"), [("two words", []), ("", []), ("a#b", []), ("a", ["x y"]), ("a\n", [])])
def test_a_name_that_is_not_allowed_in_a_line_is_refused(tmp_path: Path, name: str, models: list[str]) -> None:
    with pytest.raises(UserError, match="cannot stand in a tokens file"):
        auth_tokens.add(tmp_path / "tokens", name, models)
    assert not (tmp_path / "tokens").exists()


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    auth_tokens.add(tmp_path / "tokens", "ci", [])
    with pytest.raises(UserError, match="has a token named ci; choose another name"):
        auth_tokens.add(tmp_path / "tokens", "ci", [])


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        auth_tokens.add(tmp_path / "none" / "tokens", "ci", [])


def test_the_command_prints_the_token_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    run = subprocess.run(
        [*COMMAND, "token", "ci", "--file", str(path), "--model", "digits"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    made = run.stdout.strip()
    assert auth_tokens.read(path).identify(made).name == "ci"
    assert made not in run.stderr
    assert json.dumps(made) == f'"{made}"', "it can be quoted anywhere"
