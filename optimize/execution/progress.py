"""Show the steps of a run on stderr: a spinner with the step on a terminal, a plain line per finished step elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

_QUIET_BELOW_S = 0.5


class Steps:
    """Prints to one console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, model: str, text: str) -> Iterator[None]:
        """Show a step while it runs; one that took noticeable time leaves a line behind."""
        start = time.monotonic()
        with self._console.status(f"{model}: {text}"):
            yield
        seconds = time.monotonic() - start
        if seconds >= _QUIET_BELOW_S:
            self.note(model, f"{text} ({seconds:.1f} s)")

    def note(self, model: str, text: str) -> None:
        """Print one line."""
        self._console.print(f"{model}: {text}", markup=False, highlight=False, soft_wrap=True)


def shown() -> Steps:
    """Progress on stderr."""
    return Steps(Console(stderr=True))
