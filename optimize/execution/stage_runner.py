"""How a stage of one model's export is run.

A stage is a module-level function that runs in a fresh process. Its result is found again by the function's name and the contents of
its arguments, so an export in which nothing changed measures nothing.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from optimize.budgets import ModelBudgets
from optimize.errors import ArtifactError, CandidateError, ProcessError
from optimize.execution.cache import Cache
from optimize.execution.environment import Clock
from optimize.execution.isolation import Isolated
from optimize.execution.keys import DigestedPath, key_of_call, received
from optimize.execution.progress import Progress, Silent
from optimize.manifest import Machine, StageTime

T = TypeVar("T")
_ANSWERS, _RECORD = "answers.npz", "record.json"


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """A stage that ended in the candidate's failure; it is remembered as any other result is."""

    cause: str


class Success(msgspec.Struct, Generic[T], frozen=True, tag="success"):
    """A stage's result."""

    value: T


class StageTimes:
    """Collects how long each stage of a run took."""

    def __init__(self) -> None:
        self._times: list[StageTime] = []

    def add(self, time: StageTime) -> None:
        """Append one stage."""
        self._times.append(time)

    @property
    def all(self) -> tuple[StageTime, ...]:
        """The stages in the order in which they ended."""
        return tuple(self._times)


@dataclass(frozen=True)
class StageRunner:
    """Runs the stages of one model, under its limits and on its machine, and finds their earlier results in the cache."""

    name: str
    budgets: ModelBudgets
    base: Path
    cache: Cache
    isolated: Isolated
    machine: Machine
    tools: dict[str, str]
    providers: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Silent)
    clock: Clock = field(default_factory=Clock)
    times: StageTimes = field(default_factory=StageTimes)

    def allowing(self, more_s: float) -> "StageRunner":
        """The same runner for a stage that is meant to take that much longer."""
        return dataclasses.replace(self, isolated=self.isolated.allowing(more_s))

    def build(self, stage: str, function: Callable[..., Any], *args: object) -> Path:
        """A folder that `function(*args, folder)` fills, and that holds for every machine with the same tools.

        Raises:
            CandidateError: The function failed.
        """
        key = key_of_call(function, args, {}, self.tools)
        with self._timed(stage) as run:

            def fill(folder: Path) -> None:
                record = run(function, *received(args), folder)
                if record is not None:
                    (folder / _RECORD).write_bytes(msgspec.json.encode(record))

            return self.cache.folder("built", key, fill)

    def answers(self, stage: str, function: Callable[..., Any], *args: object, **kwargs: object) -> DigestedPath:
        """The file that `function(*args, file, **kwargs)` writes on this machine; its digest is the key of the call.

        Raises:
            CandidateError: The function failed.
        """
        key = key_of_call(function, args, kwargs, self.tools, self.machine)
        with self._timed(stage) as run:

            def fill(folder: Path) -> None:
                run(function, *received(args), folder / _ANSWERS, **kwargs)

            return DigestedPath(self.cache.folder("answers", key, fill) / _ANSWERS, key)

    def measured(
        self, stage: str, schema: type[T], function: Callable[..., T], *args: object, repetition: str = ""
    ) -> T:
        """What `function(*args)` finds on this machine; each `repetition` of the same call is measured separately.

        Raises:
            CandidateError: The function failed, now or when it was run before.
        """
        key = key_of_call(function, args, {}, repetition, self.tools, self.machine)
        kind: Any = Success[schema] | Failure  # type: ignore[valid-type] # msgspec takes types that are known at run time only
        with self._timed(stage) as run:

            def attempt() -> Success[T] | Failure:
                try:
                    return Success(run(function, *received(args)))
                except ProcessError:
                    raise
                except CandidateError as error:
                    return Failure(str(error))

            found: Success[T] | Failure = self.cache.record("measured", key, kind, attempt)
        if isinstance(found, Failure):
            raise CandidateError(found.cause)
        return found.value

    @contextmanager
    def _timed(self, stage: str) -> Iterator[Callable[..., Any]]:
        """Show and time a stage; yields what runs its function, and a stage that did not need it was cached."""
        start, ran = self.clock.elapsed_s(), []

        def run(function: Callable[..., Any], *args: object, **kwargs: object) -> Any:
            ran.append(function)
            return self.isolated(function, *args, **kwargs)

        with self.progress.step(self.name, stage):
            yield run
        self.times.add(StageTime(stage, round(self.clock.elapsed_s() - start, 3), cached=not ran))


def stored(folder: Path, schema: type[T]) -> T:
    """The record that a build left with its files.

    Raises:
        ArtifactError: Another release of this tool wrote it, or it is damaged.
    """
    try:
        return msgspec.json.decode((folder / _RECORD).read_bytes(), type=schema)
    except (msgspec.DecodeError, FileNotFoundError) as error:
        raise ArtifactError(
            f"{folder}: was damaged, or built by another release of this tool ({error}); export with --no-cache"
        ) from None
