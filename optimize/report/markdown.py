"""The report as Markdown, for the summary of a CI run: the verdict first, then the figures behind it."""

import re
from collections.abc import Iterable, Mapping, Sequence

from optimize.manifest import Result
from optimize.report.account import Account, Row, Standing, account, reused, summary
from optimize.report.served import NOTHING, Served, judgements, layouts
from optimize.report.wording import NONE, asked, moment, number, plain, title

_POINT_HEADS = ("For", "Sessions", "Rows per call", "Rows/s", "p50 of a call", "p95 of a call", "Timed calls")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!$&])")


def as_markdown(
    results: Sequence[Result],
    *,
    stale: frozenset[str] = frozenset(),
    absent: Sequence[str] = (),
    served: Mapping[str, Served] = NOTHING,
) -> str:
    """All results.

    `stale` names the models whose budgets have changed since, `absent` those that were never exported; `served` has what the registry
    knows of published versions, by model.
    """
    lines = [f"# {_text(summary(tuple(results)))}", ""]
    if len(results) > 1:
        rows = [
            (_text(model.result.name), _text(model.headline), str(model.result.exit)) for model in map(account, results)
        ]
        lines += [*_table(("Model", "Outcome", "Exit code"), rows), ""]
    if absent:
        lines += [f"Declared, but never exported: {_text(', '.join(absent))}.", ""]
    for result in results:
        lines += _model(account(result, stale=result.name in stale), served.get(result.name))
    return "\n".join(lines).rstrip() + "\n"


def _model(model: Account, served: Served | None) -> list[str]:
    result = model.result
    lines = [f"## {_text(result.name)}", ""]
    for warning in model.warnings:
        lines += [f"> **{_text(warning)}**", ""]
    lines += [f"**{_text(model.headline)}**: {_text(model.detail)} (exit code {result.exit}).", ""]
    lines += _winner(model.winner) if model.winner else []
    if model.questions:
        asked_for = [f"- **{_text(q.candidate)}**, {q.budget}: {_text(q.settled_by)}." for q in model.questions]
        lines += ["### What would settle it", "", *asked_for, ""]
    if model.standings:
        lines += ["### Candidates against budgets", "", *_matrix(model), ""]
    if model.losers:
        lines += [f"### {model.losers_title}", ""]
        lines += [_loser(standing) for standing in model.losers]
        lines += [""]
    return [*lines, *_served(model, served), *_run(result)]


def _served(model: Account, served: Served | None) -> list[str]:
    lines = []
    if points := layouts(served):
        rows = [(p.use, p.sessions, p.batch, p.rows_per_s, p.p50, p.p95, p.n) for p in points]
        lines += ["### Operating points", "", *_table(_POINT_HEADS, rows), ""]
    if judged := judgements(model.result, served):
        heads = ("Machine", "Judged", "Outcome", *(title(limit.key) for limit in model.limits))
        cells = [
            (
                _text(found.machine),
                _text(moment(found.created)),
                _text(found.outcome),
                *(_cell(found.rows.get(limit.key)) for limit in model.limits),
            )
            for found in judged
        ]
        lines += ["### Judged by `optimize validate`", "", *_table(heads, cells), ""]
        lost = [found for found in judged if found.why]
        lines += [f"- **{_text(found.machine)}**: {_text('; '.join(found.why))}" for found in lost] + [""] * bool(lost)
    return lines


def _cell(row: Row | None) -> str:
    return " ".join(filter(None, (row.observed, row.outcome))) if row else NONE


def _winner(standing: Standing) -> list[str]:
    rows = [
        (row.title, row.limit, row.observed, row.bounds, row.outcome, _text(row.evidence)) for row in standing.budgets
    ]
    return [*_table(("Budget", "Limit", "Observed", "Bounds", "Verdict", "Evidence"), rows), ""]


def _matrix(model: Account) -> list[str]:
    heads = ["Candidate", "Status", *(f"{title(limit.key)}, {asked(limit)}" for limit in model.limits)]
    rows = [
        (
            _text(standing.candidate.name),
            standing.status,
            *map(_cell, standing.budgets),
        )
        for standing in model.standings
    ]
    return _table(heads, rows)


def _loser(standing: Standing) -> str:
    return f"- **{_text(standing.candidate.name)}** ({standing.status}): {_text('; '.join(standing.why))}"


def _run(result: Result) -> list[str]:
    facts = []
    if result.machine:
        machine = result.machine
        facts.append(f"Measured on {_text(machine.cpu)}, {machine.cores} cores, {number(machine.memory_mb)} MB")
    if result.tools:
        facts.append("with " + _text(", ".join(f"{name} {version}" for name, version in result.tools.items())))
    if result.created:
        facts.append(f"finished {_text(moment(result.created))}")
    if result.stages:
        facts.append(reused(result.stages))
    return [f"{', '.join(facts)}.", ""] if facts else []


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cell or NONE for cell in line)} |" for line in lines]


def _text(text: str) -> str:
    """Text on one line, with everything escaped that Markdown or HTML would act upon."""
    return _SPECIAL.sub(r"\\\1", plain(text))
