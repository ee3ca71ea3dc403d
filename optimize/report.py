"""Pure: what a run found, as lines for a terminal and as the JSON document of `--json`."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from optimize.budgets import limits
from optimize.manifest import Result, Trial, Verdict

_VERDICT_FIELDS = ("budget", "limit", "observed", "low", "high", "n", "verdict")
_NOT_A_VERDICT = "quick run: screens only, not a release verdict"


def as_json(results: Sequence[Result]) -> str:
    """The document that `--json` prints; its keys are documented in docs/export.md."""
    return msgspec.json.format(
        msgspec.json.encode({"models": [_model(result) for result in results]}), indent=2
    ).decode()


def _model(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "exit": result.exit,
        "release": result.release,
        "reason": result.reason,
        "winner": result.winner,
        "candidates": [_candidate(trial) for trial in result.candidates],
    }


def _candidate(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "precision": trial.precision,
        "runtime": trial.runtime,
        "status": trial.status,
        "reason": trial.reason,
        "verdicts": [{field: getattr(verdict, field) for field in _VERDICT_FIELDS} for verdict in trial.verdicts],
    }


def as_lines(results: Iterable[Result]) -> list[str]:
    """A table per model: each candidate's status, every budget with its evidence, and the outcome."""
    lines: list[str] = []
    for result in results:
        lines += ["", f"{result.name}: {len(limits(result.budgets))} budgets, {len(result.candidates)} candidates"]
        if not result.release:
            lines.append(f"  {_NOT_A_VERDICT}")
        for trial in result.candidates:
            lines.append(f"  {trial.name:<32} {trial.status:<13} {trial.reason}")
            lines += [_verdict_line(verdict) for verdict in trial.verdicts]
        lines.append(_outcome(result))
    return lines


def _verdict_line(verdict: Verdict) -> str:
    observed = "-" if verdict.observed is None else f"{verdict.observed:.4g}"
    return f"    {verdict.verdict:<12} {verdict.budget:<23} {observed:>9}  limit {verdict.limit:<8g} {verdict.evidence}"


def _outcome(result: Result) -> str:
    if result.winner is None:
        return f"  no winner (exit {result.exit}): {result.reason}"
    return f"  winner: {result.winner.candidate}, version {result.winner.version}, {result.winner.path}"
