"""Files that may change while a service runs, such as renewed certificates: looked at while they are in use."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

CHECK_PERIOD_S = 1.0
"""How old the answer may be to whether a file has changed."""


class WatchedFiles:
    """Tells when files are others than before, or are gone."""

    def __init__(self, paths: Iterable[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = tuple(paths)
        self._clock = clock
        self._looked_s = clock()
        self._seen = self._states()

    def changed(self) -> bool:
        """Whether they are to be read again; what changes while they are read is told the next time."""
        now_s = self._clock()
        if now_s - self._looked_s < CHECK_PERIOD_S:
            return False
        self._looked_s = now_s
        before, self._seen = self._seen, self._states()
        return self._seen != before

    def _states(self) -> list[tuple[int, ...] | None]:
        return [_state(path) for path in self._paths]


def _state(path: Path) -> tuple[int, ...] | None:
    """What differs between two states of a file; None where there is no file to be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
