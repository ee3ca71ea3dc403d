"""How far the job is, on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY_S = 5.0

Advance = Callable[[int], None]
"""Called with the number of rows that were just scored."""


@contextmanager
def shown(rows: int, done: int) -> Iterator[Advance]:
    """Show progress over `rows` rows, `done` of which were there before."""
    if not sys.stderr.isatty():
        yield Lines(rows, done).advance
        return
    import rich.console  # noqa: PLC0415 - loaded where there is a terminal to draw on
    import rich.progress  # noqa: PLC0415

    columns = (
        rich.progress.TextColumn("scoring"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("rows"),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=rows, completed=done)
        yield lambda scored: bar.advance(task, scored)


class Lines:
    """A line every few seconds, and one for the last rows."""

    def __init__(self, rows: int, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows = rows
        self._done = done
        self._clock = clock
        self._next_s = clock() + LINE_EVERY_S

    def advance(self, scored: int) -> None:
        """Count rows, and say so when a line is due."""
        self._done += scored
        if self._done < self._rows and self._clock() < self._next_s:
            return
        self._next_s = self._clock() + LINE_EVERY_S
        print(f"scored {self._done:,} of {self._rows:,} rows", file=sys.stderr, flush=True)  # noqa: T201 - the progress itself


def note(text: str) -> None:
    """One line about what comes next."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the progress itself
