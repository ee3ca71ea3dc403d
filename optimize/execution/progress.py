"""Show the steps of a run on stderr: a spinner with the step on a terminal, a plain line per finished step elsewhere."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console

_QUIET_BELOW_S = 0.5


class Progress(Protocol):
    """Where the steps of a run are shown."""

    def step(self, model: str, text: str) -> AbstractContextManager[object]:
        """One step that takes a while."""

    def note(self, model: str, text: str) -> None:
        """One line that stays."""


class Silent:
    """Shows nothing."""

    def step(self, model: str, text: str) -> AbstractContextManager[object]:  # noqa: ARG002
        """Ignore the step."""
        return nullcontext()

    def note(self, model: str, text: str) -> None:
        """Ignore the line."""


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
