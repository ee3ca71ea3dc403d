"""Whole exports on fake stages: a budgets file, a registry, and what each run measured and found."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimize import pipeline
from optimize.execution.environment import Environment
from optimize.manifest import CandidateResult, Manifest, Result
from optimize.project import read
from optimize.registry import Registry
from tests import exporting
from tests.optimize.fake_stages import Call, Candidate, FakeStages

MODEL = "tiny"
# Defaults: only accuracy has a budget, so only the stages of every export run.
_DEFAULTS = {"size__mb": None, "accuracy__min_agreement": None, "accuracy__max_drop": 0.05}


class Lines:
    """The lines that a run shows."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def phase(self, _model: str, _name: str) -> None:
        pass

    def expect(self, _model: str, _seconds: float) -> None:
        pass

    def step(self, _model: str, _text: str) -> AbstractContextManager[None]:
        return nullcontext()

    def note(self, _model: str, text: str) -> None:
        self.shown.append(text)


@dataclass(frozen=True)
class Run:
    """One model's result, the stages that ran for it, and the lines that it showed."""

    result: Result
    calls: tuple[Call, ...]
    shown: tuple[str, ...]

    @property
    def ran(self) -> list[str]:
        """The stages that ran, except for reading source and samples, which every run repeats."""
        return [str(call) for call in self.calls if call.stage != "read"]

    @property
    def stages(self) -> set[str]:
        return {call.stage for call in self.calls} - {"read"}

    @property
    def winner(self) -> str | None:
        return self.result.winner.precision if self.result.winner else None

    @property
    def version(self) -> int | None:
        return self.result.winner.version if self.result.winner else None

    @property
    def statuses(self) -> dict[str, str]:
        return {precision: result.status for precision, result in self.results.items()}

    @property
    def results(self) -> dict[str, CandidateResult]:
        """By precision, the source left out; a test that asks for several runtimes reads the result."""
        return {result.precision: result for result in self.result.candidates if result.precision != "source"}

    def verdict(self, precision: str, budget: str) -> str:
        return next(found.verdict for found in self.results[precision].verdicts if found.budget == budget)

    def measured(self, precision: str, key: str) -> float:
        found = self.results[precision].measured(key)
        assert found is not None, f"{key} was not measured of {precision}"
        return found.value


class Project:
    """A model that can be exported again and again, each time with other budgets, stages or surroundings.

    Options are keys of budgets.toml, `a__b` for a.b; the candidates are fp32 and int8-static by default.
    """

    def __init__(self, folder: Path, stages: FakeStages, **budgets: Any) -> None:
        self.folder, self.stages, self._budgets = folder, stages, budgets
        self.registry = Registry(folder / "artifacts")

    def export(self, *, machine: Any = None, tools: Any = None, **options: Any) -> Run:
        environment = self._environment(machine, tools)
        return self._run(
            lambda path, lines: pipeline.export(read(path), pipeline.Options(**options), lines, environment)
        )

    def validate(self, version: int | None = None, *, machine: Any = None, tools: Any = None) -> Run:
        environment = self._environment(machine, tools)
        return self._run(
            lambda path, lines: pipeline.validate(read(path), pipeline.Options(), version, lines, environment)
        )

    def budget(self, **budgets: Any) -> None:
        """Change keys of budgets.toml; None takes one out."""
        self._budgets = {**self._budgets, **budgets}

    def manifest(self, version: int | None = None) -> Manifest:
        return self.registry.load(MODEL, version)

    def _environment(self, machine: Any, tools: Any) -> Environment:
        given = {"machine": machine, "tools": tools}
        return self.stages.environment(**{name: value for name, value in given.items() if value is not None})

    def _run(self, command: Any) -> Run:
        path, lines = exporting.budgets(self.folder, **(_DEFAULTS | self._budgets)), Lines()
        before = len(self.stages.calls)
        (result,) = command(path, lines)
        return Run(result, tuple(self.stages.calls[before:]), tuple(lines.shown))


def project(folder: Path, *, fp32: Candidate | None = None, int8: Candidate | None = None, **budgets: Any) -> Project:
    """A project whose two candidates, FP32 and static INT8, and whose source behave as given."""
    source = budgets.pop("of_source", Candidate(ms=4.0, row_ms=2.0))
    found = {"source": source, "fp32": fp32 or Candidate(), "int8-static": int8 or Candidate()}
    return Project(folder, FakeStages(found), **budgets)
