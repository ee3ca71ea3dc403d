"""Progress on stderr: a live line on a terminal, and plain lines that stay.

An export goes through a few phases of many steps. The live line shows the step under way and the time left; each phase leaves one
line. A job of known size counts up: a bar on a terminal, a line every few seconds elsewhere.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Phase = Literal["read", "convert", "build", "screen", "measure", "confirm", "choose", "publish"]
Clock = Callable[[], float]
Advance = Callable[[float], None]
"""Called with how much was done since the last call."""

PHASES: dict[Phase, str] = {
    "read": "source and samples",
    "convert": "source to ONNX",
    "build": "candidates",
    "screen": "a few calls and samples of each candidate",
    "measure": "memory, accuracy and latency",
    "confirm": "accuracy, latency and speed on samples that chose nothing",
    "choose": "best candidate, under load where a rate is declared",
    "publish": "winner",
}
LINE_EVERY_S = 5.0
_QUIET_BELOW_S = 0.5
# Drawing takes processor time from what is measured meanwhile.
_DRAWN_PER_S = 4
_SPINNER_COLUMNS = 3


class Progress(Protocol):
    """Where the progress of a run is shown."""

    def phase(self, model: str, name: Phase) -> None:
        """The steps that follow belong to this phase."""

    def expect(self, model: str, seconds: float) -> None:
        """What follows takes about this long."""

    def step(self, model: str, text: str) -> AbstractContextManager[object]:
        """One step that takes a while."""

    def note(self, model: str, text: str) -> None:
        """A detail of what was found."""


class Silent:
    """Shows nothing."""

    def phase(self, model: str, name: Phase) -> None:
        """Ignore the phase."""

    def expect(self, model: str, seconds: float) -> None:
        """Ignore the estimate."""

    def step(self, model: str, text: str) -> AbstractContextManager[object]:  # noqa: ARG002
        """Ignore the step."""
        return nullcontext()

    def note(self, model: str, text: str) -> None:
        """Ignore the detail."""


class Phases:
    """Prints a line per phase to one console; with `verbose`, also each step that took noticeable time, and each note."""

    def __init__(
        self,
        console: "Console",
        *,
        verbose: bool = False,
        clock: Clock = time.monotonic,
        redraw: Callable[[], None] = lambda: None,
    ) -> None:
        self._console = console
        self._redraw = redraw
        self._verbose = verbose
        self._clock = clock
        self._under_way: tuple[str, Phase, float] | None = None
        self._step = ""
        self._end_s: float | None = None

    def phase(self, model: str, name: Phase) -> None:
        """End the phase before this one with its line."""
        self._close()
        self._under_way = (model, name, self._clock())

    def expect(self, model: str, seconds: float) -> None:  # noqa: ARG002 - one model is exported at a time
        """Show the time left from now on."""
        self._end_s = self._clock() + seconds

    @contextmanager
    def step(self, model: str, text: str) -> Iterator[None]:
        """Show a step while it runs."""
        start, self._step = self._clock(), text
        yield
        seconds, self._step = self._clock() - start, ""
        if seconds >= _QUIET_BELOW_S:
            self.note(model, f"{text} ({seconds:.1f} s)")

    def note(self, model: str, text: str) -> None:
        """Print a line where details are wanted."""
        if self._verbose:
            self._line(f"{model}: {text}")

    def end(self, *, broken: bool = False) -> None:
        """End the last phase of a model, which leaves no line where the run broke in it; the next model has its own estimate."""
        if broken:
            self._under_way = None
        self._close()
        self._end_s = None
        self._redraw()

    def print(self, lines: "Iterable[Text]") -> None:
        """Print lines above the live one, in colour where the console has any."""
        for line in lines:
            self._console.print(line, soft_wrap=True)

    def _close(self) -> None:
        if self._under_way is not None:
            model, name, start = self._under_way
            self._under_way = None
            self._line(f"{model}  {name:<8} {PHASES[name]:<58} {self._clock() - start:6.1f} s")

    def live(self) -> str:
        """The step under way and the time left, on one line."""
        if self._under_way is None:
            return ""
        model, name, _ = self._under_way
        left = "" if self._end_s is None else _left(self._end_s - self._clock())
        return "  ".join(part for part in (model, f"{name:<8}", left, self._step) if part)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _left(seconds: float) -> str:
    if seconds < 5:
        return ""  # the estimate was too low
    return f"about {round(seconds / 60)} min left" if seconds >= 90 else f"about {round(seconds, -1):.0f} s left"


@contextmanager
def shown(*, verbose: bool = False) -> Iterator[Phases]:
    """Show the phases of a run on stderr."""
    from rich.console import Console  # noqa: PLC0415 - drawing is loaded where something is shown
    from rich.live import Live  # noqa: PLC0415
    from rich.spinner import Spinner  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Phases(console, verbose=verbose)
        return
    spinner = Spinner("dots")

    def drawn() -> Spinner | Text:
        line = phases.live()
        text = Text(line)
        text.truncate(console.width - _SPINNER_COLUMNS, overflow="ellipsis")
        spinner.update(text=text)
        return spinner if line else Text()

    phases = Phases(console, verbose=verbose, redraw=lambda: live.refresh())  # noqa: PLW0108 - `live` follows
    with Live(get_renderable=drawn, console=console, refresh_per_second=_DRAWN_PER_S, transient=True) as live:
        yield phases


@contextmanager
def counted(label: str, total: float, unit: str, done: float = 0) -> Iterator[Advance]:
    """Show progress over `total` of a unit, `done` of which were there before: a bar on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield Lines(label, total, unit, done).advance
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=_DRAWN_PER_S) as bar:
        task = bar.add_task(label, total=total, completed=int(done))
        yield lambda more: bar.advance(task, more)


class Lines:
    """A line every few seconds, and one at the end."""

    def __init__(self, label: str, total: float, unit: str, done: float, clock: Clock = time.monotonic) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._done = done
        self._clock = clock
        self._next_s = clock() + LINE_EVERY_S

    def advance(self, more: float) -> None:
        """Count, and print a line when one is due."""
        self._done += more
        if self._done < self._total and self._clock() < self._next_s:
            return
        self._next_s = self._clock() + LINE_EVERY_S
        say(f"{self._label} {self._done:,.0f} of {self._total:,.0f} {self._unit}")


def say(text: str) -> None:
    """Print one line."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the progress
