"""Files that may change while a service runs, such as renewed certificates; they are checked while they are in use."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

CHECK_PERIOD_S = 1.0
"""How long the last check of the files stays good."""


class WatchedFiles:
    """Notices when files have changed or are gone."""

    def __init__(self, paths: Iterable[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = tuple(paths)
        self._clock = clock
        self._checked_s = clock()
        self._last = self._states()

    def changed(self) -> bool:
        """Whether the files have to be read again; a change while they are read is reported by the next call."""
        now_s = self._clock()
        if now_s - self._checked_s < CHECK_PERIOD_S:
            return False
        self._checked_s = now_s
        before, self._last = self._last, self._states()
        return self._last != before

    def _states(self) -> list[tuple[int, ...] | None]:
        return [_state(path) for path in self._paths]


def _state(path: Path) -> tuple[int, ...] | None:
    """What differs between two states of a file; None if there is no readable file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
