import io
import re

import pytest
from rich.console import Console

from optimize.execution import progress
from optimize.execution.progress import Steps


def shown(*, terminal: bool) -> tuple[Steps, io.StringIO]:
    file = io.StringIO()
    return Steps(Console(file=file, force_terminal=terminal, width=60)), file


def test_quick_step_leaves_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_QUIET_BELOW_S", 3600.0)
    steps, file = shown(terminal=False)
    with steps.step("net", "build"):
        pass
    assert file.getvalue() == ""


def test_step_that_takes_time_leaves_a_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_QUIET_BELOW_S", 0.0)
    steps, file = shown(terminal=False)
    with steps.step("net", "build [fast]"):
        pass
    assert re.fullmatch(r"net: build \[fast\] \(0\.\d s\)\n", file.getvalue())


def test_note_keeps_its_text_whatever_its_width_and_marks() -> None:
    steps, file = shown(terminal=False)
    text = "a [bold] text of 100 characters, numbers 123 and /paths " + "x" * 50
    steps.note("net", text)
    assert file.getvalue() == f"net: {text}\n"


def test_step_that_fails_passes_its_error_on() -> None:
    steps, _ = shown(terminal=True)
    with pytest.raises(ValueError, match="no"), steps.step("net", "build"):
        raise ValueError("no")


def test_terminal_shows_the_step_while_it_runs() -> None:
    steps, file = shown(terminal=True)
    with steps.step("net", "build"):
        pass
    assert "net: build" in file.getvalue()


def test_progress_goes_to_stderr() -> None:
    assert progress.shown()._console.stderr
