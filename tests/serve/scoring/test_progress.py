import os
import pty
import subprocess
import sys

import pytest

from serve.scoring.progress import LINE_EVERY_S, Lines


def test_lines_come_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    lines = Lines(10_000, 1000, clock=lambda: now)
    lines.advance(500)
    now += LINE_EVERY_S
    lines.advance(500)
    lines.advance(500)
    now += LINE_EVERY_S
    lines.advance(500)
    lines.advance(7000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "scored 2,000 of 10,000 rows",
        "scored 3,000 of 10,000 rows",
        "scored 10,000 of 10,000 rows",
    ]


def test_terminal_gets_a_bar() -> None:
    master, terminal = pty.openpty()
    script = "from serve.scoring.progress import shown\nwith shown(200, 50) as advance:\n    advance(100)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stderr=terminal,
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "TERM": "xterm"},
        )
        drawn = os.read(master, 10_000).decode()
    finally:
        os.close(master)
        os.close(terminal)
    assert "150/200" in drawn
    assert done.stdout == b""
