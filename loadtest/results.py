"""The outcome of each call, as arrays and as an .npz file of the same names."""

from collections import Counter
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import numpy.typing as npt

from optimize.execution import atomic
from optimize.statistics.arrivals import Seconds

OK = 0
NO_ANSWER = -1
UNREADABLE = -2
_NAMES: dict[int, str] = {
    **{status.value[0]: status.name for status in grpc.StatusCode},
    NO_ANSWER: "no answer",
    UNREADABLE: "unreadable answer",
}
NO_VERSION = -1


def name_of(code: int) -> str:
    """The name of an outcome: gRPC's name of the code, or our own where there was no status."""
    return _NAMES[code]


@dataclass(frozen=True, eq=False)
class Calls:
    """Calls in the order of their schedule; entry i of every array is call i.

    `scheduled_s` and `sent_s` count from the start of the schedule. `latency_ms` counts from `scheduled_s` to the end of the call,
    whatever its outcome, and is infinite where there was none. `code` is gRPC's status code, or NO_ANSWER or UNREADABLE. `version`
    points into `versions`, the model versions that answers named, or is NO_VERSION. `said` has, for each code that came with a text,
    the code's name and the first of these texts.
    """

    scheduled_s: Seconds
    sent_s: Seconds
    latency_ms: Seconds
    code: npt.NDArray[np.int16]
    version: npt.NDArray[np.int16]
    versions: npt.NDArray[np.str_]
    said: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.scheduled_s)

    def due_from(self, start_s: float) -> Self:
        """The calls that were due at `start_s` or later."""
        first = int(np.searchsorted(self.scheduled_s, start_s))
        parts = {name: getattr(self, name)[first:] for name in _PER_CALL}
        return type(self)(**parts, versions=self.versions, said=self.said)

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Whether each call got a usable answer."""
        good: npt.NDArray[np.bool_] = self.code == OK
        return good

    @property
    def lateness_ms(self) -> Seconds:
        """How long after it was due each call was sent: the generator's part of its latency."""
        lateness: Seconds = (self.sent_s - self.scheduled_s) * 1e3
        return lateness

    @property
    def judged_ms(self) -> Seconds:
        """Latency from the scheduled arrival; infinite for every call that failed."""
        return np.where(self.good, self.latency_ms, np.inf)

    @property
    def since_sent_ms(self) -> Seconds:
        """Latency without the generator's lateness: the service at its best."""
        return self.judged_ms - self.lateness_ms

    def answered_between(self, start_s: float, end_s: float) -> int:
        """Good answers that arrived in a window of the schedule's clock, whenever their calls were due."""
        done_s = self.scheduled_s + self.latency_ms / 1e3
        return int(np.count_nonzero(self.good & (done_s >= start_s) & (done_s < end_s)))

    def by_code(self) -> dict[str, int]:
        """Number of calls by the name of their end, most frequent first."""
        return dict(Counter(name_of(code) for code in self.code.tolist()).most_common())

    def by_version(self) -> dict[str, int]:
        """Number of good answers by the model version they named."""
        named = self.version[self.version != NO_VERSION]
        return dict(Counter(self.versions[named].tolist()).most_common())

    def first_said(self) -> dict[str, str]:
        """The text of the first call that ended with each code, by the code's name."""
        return dict(self.said.tolist())


_PER_CALL = ("scheduled_s", "sent_s", "latency_ms", "code", "version")


def save(path: Path, calls: Calls) -> None:
    """Write an .npz that appears whole or not at all."""
    buffer = BytesIO()
    np.savez(buffer, **{field.name: getattr(calls, field.name) for field in fields(Calls)})
    atomic.write(path, buffer.getvalue())


def load(path: Path) -> Calls:
    """Read what :func:`save` wrote."""
    with np.load(path) as archive:
        arrays: dict[str, Any] = {field.name: archive[field.name] for field in fields(Calls)}
    return Calls(**arrays)
