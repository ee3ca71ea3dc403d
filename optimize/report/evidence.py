"""All that an export found of one candidate, for a terminal."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from optimize.errors import UserError
from optimize.manifest import CandidateResult, Result
from optimize.report.account import Row, Standing, account
from optimize.report.wording import MARKS, NONE, plain


def explained(results: Sequence[Result], wanted: str) -> list[Text]:
    """The evidence of the candidate of that name or precision, in every result that has one.

    Raises:
        UserError: No result has one.
    """
    lines: list[Text] = []
    for result in results:
        for candidate in result.candidates:
            if wanted in (candidate.name, candidate.precision):
                lines += explanation(result, candidate)
    if not lines:
        names = dict.fromkeys(plain(candidate.name) for result in results for candidate in result.candidates)
        raise UserError(f"--explain {wanted}: no such candidate; there are {', '.join(names) or 'none'}")
    return lines


def explanation(result: Result, candidate: CandidateResult) -> list[Text]:
    """Verdicts with their evidence, other measurements with their method, and notes."""
    standing = next(standing for standing in account(result).standings if standing.candidate.name == candidate.name)
    heading = Text.assemble(f"{plain(result.name)}, ", (plain(candidate.name), "bold"), f": {standing.status}")
    return [Text(), heading, *_lines(standing)]


def _lines(standing: Standing) -> Iterator[Text]:
    for reason in standing.why:
        yield Text(f"  {reason}")
    for row in standing.shown:
        mark, colour = MARKS.get(row.outcome, ("·", ""))
        yield Text.assemble("  ", (mark, colour), f" {row.title} ({row.key}): {_figures(row)}")
        if row.evidence:
            yield Text(f"      {row.evidence}", "dim")
    for note in standing.candidate.notes:
        yield Text(f"  note: {plain(note)}")


def _figures(row: Row) -> str:
    figures = [row.outcome, row.observed if row.observed != NONE else "", row.bounds if row.bounds != NONE else ""]
    limit = f"limit {row.limit}" if row.limit != NONE else ""
    return ", ".join(part for part in (*figures, limit) if part)
