"""What a run found, as lines for a terminal."""

from collections.abc import Iterable

from optimize.budgets import limits
from optimize.manifest import Result, Verdict, counted
from optimize.report.account import built_only
from optimize.report.wording import plain

_QUICK, _BUILDS = "quick run: screens only, not a release verdict", "builds only: nothing was judged"


def as_lines(results: Iterable[Result]) -> list[str]:
    """A table per model: each candidate's status, every budget with its evidence, and the outcome."""
    lines: list[str] = []
    for result in results:
        budgets, tried = counted(len(limits(result.budgets)), "budget"), counted(len(result.candidates), "candidate")
        lines += ["", f"{plain(result.name)}: {budgets}, {tried}"]
        if not result.release:
            lines.append(f"  {_BUILDS if built_only(result) else _QUICK}")
        for candidate in result.candidates:
            lines.append(f"  {plain(candidate.name):<32} {candidate.status:<13} {plain(candidate.reason)}")
            lines += [_verdict_line(verdict) for verdict in candidate.verdicts]
        lines.append(_outcome(result))
    return lines


def _verdict_line(verdict: Verdict) -> str:
    observed = "-" if verdict.observed is None else f"{verdict.observed:.4g}"
    evidence = plain(verdict.evidence)
    return f"    {verdict.verdict:<12} {verdict.budget:<23} {observed:>9}  limit {verdict.limit:<8g} {evidence}"


def _outcome(result: Result) -> str:
    if result.winner is None:
        return f"  no winner (exit {result.exit}): {plain(result.reason)}"
    return f"  winner: {plain(result.winner.candidate)}, version {result.winner.version}, {plain(result.winner.path or '')}"
