"""The JSON document of `--json` and report.json; its keys are documented in docs/export.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from optimize.manifest import CandidateResult, Result
from optimize.report.account import SOURCE
from optimize.report.served import NOTHING, Served

_VERDICT_FIELDS = ("budget", "limit", "observed", "low", "high", "n", "verdict")


def as_json(results: Sequence[Result], *, served: Mapping[str, Served] = NOTHING) -> str:
    """The outcome of every model, its candidates and their verdicts; `served` has what is known of published versions, by model."""
    models = [_model(result, served.get(result.name, Served())) for result in results]
    return msgspec.json.format(msgspec.json.encode({"models": models}), indent=2).decode()


def _model(result: Result, served: Served) -> dict[str, Any]:
    return {
        "name": result.name,
        "exit": result.exit,
        "release": result.release,
        "reason": result.reason,
        "winner": result.winner,
        "candidates": [_candidate(candidate) for candidate in result.candidates],
        "operating_points": {"online": served.online, "bulk": served.bulk},
        "judgements": [_judgement(found) for found in served.judgements],
    }


def _judgement(found: Result) -> dict[str, Any]:
    """The verdicts of one machine on the published version, which is the only candidate there besides the source."""
    judged = next((candidate for candidate in found.candidates if candidate.precision != SOURCE), None)
    return {
        "machine": found.machine,
        "created": found.created,
        "exit": found.exit,
        "reason": found.reason,
        "verdicts": _verdicts(judged) if judged else [],
    }


def _candidate(candidate: CandidateResult) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "precision": candidate.precision,
        "runtime": candidate.runtime,
        "status": candidate.status,
        "reason": candidate.reason,
        "verdicts": _verdicts(candidate),
    }


def _verdicts(candidate: CandidateResult) -> list[dict[str, Any]]:
    return [{field: getattr(verdict, field) for field in _VERDICT_FIELDS} for verdict in candidate.verdicts]
