"""The JSON document of `--json` and report.json; its keys are documented in docs/export.md."""

from collections.abc import Sequence
from typing import Any

import msgspec

from optimize.manifest import Result, Trial

_VERDICT_FIELDS = ("budget", "limit", "observed", "low", "high", "n", "verdict")


def as_json(results: Sequence[Result]) -> str:
    """The outcome of every model, its candidates and their verdicts."""
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
