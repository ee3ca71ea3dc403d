"""What all stages of one model's export share: its budgets, its samples, its baseline, and how a stage is run.

A stage is a module-level function that runs in a fresh process. Its result is looked up by everything that it depends on, so an
export in which nothing changed measures nothing again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from optimize.budgets import ModelBudgets
from optimize.errors import ArtifactError, CandidateError, ProcessError
from optimize.execution.cache import Cache, key_of
from optimize.execution.environment import Clock
from optimize.execution.isolation import Isolated
from optimize.execution.progress import Progress, Silent
from optimize.manifest import Machine, StageTime

T = TypeVar("T")
_ANSWERS = "answers.npz"


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """A stage that ended in the candidate's failure; it is remembered as any other result is."""

    cause: str


class Success(msgspec.Struct, Generic[T], frozen=True, tag="success"):
    """A stage's result."""

    value: T


@dataclass(frozen=True)
class StageRunner:
    """One model's place of work; `lost_to` says of each qualified candidate that lost a comparison how it lost."""

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
    stages: list[StageTime] = field(default_factory=list)
    lost_to: dict[str, str] = field(default_factory=dict)

    def build(self, stage: str, depends: tuple[object, ...], function: Callable[..., Any], *args: object) -> Path:
        """A folder that `function(*args, folder)` fills in a process of its own, keyed by source, configuration and tools."""
        key = key_of(stage, depends, self.tools)
        return self._timed(
            stage, lambda: self.cache.folder("built", key, lambda folder: self._into(folder, function, args))
        )

    def _into(self, folder: Path, function: Callable[..., Any], args: tuple[object, ...]) -> None:
        record = self.isolated(function, *args, folder)
        if record is not None:
            (folder / "record.json").write_bytes(msgspec.json.encode(record))

    def answers(
        self, stage: str, depends: tuple[object, ...], function: Callable[..., Any], *args: object, **kwargs: object
    ) -> Path:
        """The file that `function(*args, file)` writes in a process of its own, keyed by the machine as well."""
        key = key_of(stage, depends, self.tools, self.machine)

        def fill(folder: Path) -> None:
            self.isolated(function, *args, folder / _ANSWERS, **kwargs)

        return self._timed(stage, lambda: self.cache.folder("answers", key, fill)) / _ANSWERS

    def measured(
        self, stage: str, schema: type[T], depends: tuple[object, ...], function: Callable[..., T], *args: object
    ) -> T:
        """What `function(*args)` finds in a fresh process, keyed by the machine as well.

        Raises:
            CandidateError: The function failed, now or when it was run before.
        """
        key = key_of(stage, depends, self.tools, self.machine)

        def attempt() -> Success[T] | Failure:
            try:
                return Success(self.isolated(function, *args))
            except ProcessError:
                raise
            except CandidateError as error:
                return Failure(str(error))

        kind: Any = Success[schema] | Failure  # type: ignore[valid-type] # msgspec takes types that are known at run time only
        found: Success[T] | Failure = self._timed(stage, lambda: self.cache.record("measured", key, kind, attempt))
        if isinstance(found, Failure):
            raise CandidateError(found.cause)
        return found.value

    def _timed(self, stage: str, work: Callable[[], T]) -> T:
        start, hits = self.clock.elapsed_s(), len(self.cache.hits)
        with self.progress.step(self.name, stage):
            result = work()
        seconds = round(self.clock.elapsed_s() - start, 3)
        self.stages.append(StageTime(stage, seconds, cached=len(self.cache.hits) > hits))
        return result


def stored(folder: Path, schema: type[T]) -> T:
    """The record that a build left beside its files.

    Raises:
        ArtifactError: Another release of this tool wrote it, or it is damaged.
    """
    try:
        return msgspec.json.decode((folder / "record.json").read_bytes(), type=schema)
    except (msgspec.DecodeError, FileNotFoundError) as error:
        raise ArtifactError(
            f"{folder}: was damaged, or built by another release of this tool ({error}); export with --no-cache"
        ) from None
