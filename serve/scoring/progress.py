"""How far the job is, on stderr."""

from contextlib import AbstractContextManager

from optimize.execution.progress import Advance, counted, say


def shown(rows: int, done: int) -> AbstractContextManager[Advance]:
    """Show progress over `rows` rows, `done` of which are scored already."""
    return counted("scored", rows, "rows", done)


def note(text: str) -> None:
    """Print one line about what comes next."""
    say(text)
