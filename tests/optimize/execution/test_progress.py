import io
import sys

import pytest
from rich.console import Console
from rich.text import Text

from optimize.execution.progress import LINE_EVERY_S, PHASES, Lines, Phases
from tests.terminal import in_terminal

SCRIPT = """
from rich.text import Text
from optimize.execution import progress
with progress.shown() as phases:
    phases.phase("net", "read")
    with phases.step("net", "read samples " + 100 * "x" + " END"):
        phases.expect("net", 600)
        __import__("time").sleep(0.6)
    phases.end()
    phases.print([Text("net wins", style="green")])
"""


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def shown(clock: Clock, *, verbose: bool = False) -> tuple[Phases, io.StringIO]:
    file = io.StringIO()
    return Phases(Console(file=file, width=60), verbose=verbose, clock=clock), file


def test_each_phase_leaves_one_line_with_its_time() -> None:
    clock = Clock()
    phases, file = shown(clock)
    for name in PHASES:
        phases.phase("net", name)
        for part in range(10):
            with phases.step("net", f"part {part}"):
                clock.now_s += 1.5
            phases.note("net", "a detail")
    phases.end()
    lines = file.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["net", name] for name in PHASES]
    assert len(lines) == 8
    assert all(line.endswith("  15.0 s") and len(line) < 100 for line in lines)


def test_phase_in_which_a_run_breaks_leaves_no_line() -> None:
    phases, file = shown(Clock())
    phases.phase("net", "read")
    phases.end(broken=True)
    phases.phase("other", "read")
    phases.end()
    assert [line.split()[0] for line in file.getvalue().splitlines()] == ["other"]


def test_verbose_shows_notes_and_steps_that_take_time() -> None:
    clock = Clock()
    phases, file = shown(clock, verbose=True)
    with phases.step("net", "build [fast]"):
        clock.now_s += 0.6
    with phases.step("net", "found in the cache"):
        clock.now_s += 0.1
    text = "a [bold] text of 100 characters, numbers 123 and /paths " + "x" * 50
    phases.note("net", text)
    assert file.getvalue() == f"net: build [fast] (0.6 s)\nnet: {text}\n"


def test_live_line_has_the_step_under_way_and_the_time_left() -> None:
    clock = Clock()
    phases, _ = shown(clock)
    assert phases.live() == ""
    phases.phase("net", "measure")
    phases.expect("net", 300)
    with phases.step("net", "memory 1"):
        assert phases.live() == "net  measure   about 5 min left  memory 1"
        clock.now_s += 260
        assert phases.live() == "net  measure   about 40 s left  memory 1"
        clock.now_s += 100
        assert phases.live() == "net  measure   memory 1"
    phases.end()
    phases.phase("other", "read")
    assert phases.live() == "other  read    "


def test_step_that_fails_passes_its_error_on() -> None:
    phases, _ = shown(Clock())
    with pytest.raises(ValueError, match="no"), phases.step("net", "build"):
        raise ValueError("no")


def test_printed_lines_are_plain_where_there_is_no_terminal() -> None:
    phases, file = shown(Clock())
    phases.print([Text("net wins " + "x" * 80, style="green")])
    assert file.getvalue() == "net wins " + "x" * 80 + "\n"


def test_terminal_shows_the_live_line_and_colour() -> None:
    drawn, out = in_terminal([sys.executable, "-c", SCRIPT])
    assert "net  read      about 10 min left  read samples xxx" in drawn
    assert "END" not in drawn  # one line, however long the step's name
    assert "\x1b[32mnet wins\x1b[0m" in drawn
    assert out == b""


def test_terminal_shows_no_colour_where_it_is_not_wanted() -> None:
    drawn, _ = in_terminal([sys.executable, "-c", SCRIPT], NO_COLOR="1")
    assert "net wins" in drawn
    assert "\x1b[32m" not in drawn


def test_lines_come_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines("scored", 10_000, "rows", 1000, clock)
    lines.advance(500)
    clock.now_s += LINE_EVERY_S
    lines.advance(500)
    lines.advance(500)
    clock.now_s += LINE_EVERY_S
    lines.advance(500)
    lines.advance(7000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "scored 2,000 of 10,000 rows",
        "scored 3,000 of 10,000 rows",
        "scored 10,000 of 10,000 rows",
    ]
