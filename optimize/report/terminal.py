"""What an export found of one model, for a terminal: the winner, one table, why the others lost, and what to do next."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from optimize.budgets import Limit
from optimize.errors import Exit
from optimize.manifest import Result, Verdict
from optimize.report.account import Account, Standing, account
from optimize.report.margin import tightest
from optimize.report.wording import CAPACITY, MARKS, NONE, number, plain, short_names, sign, title, unit, with_bound

WIDTH = 100
_COLOURS = {"good": "green", "bad": "red", "open": "yellow", "quiet": ""}
_LEGEND = "✓ PASS  ✗ FAIL  ? INCONCLUSIVE  — not measured; in brackets the bound that decides"
_GAP = "  "


def as_lines(result: Result, next_commands: Sequence[tuple[str, str]] = ()) -> list[Text]:
    """The result within 100 columns, winner first; `next_commands` are commands, each with what it is for."""
    found = account(result)
    if result.exit in (Exit.USAGE, Exit.BROKEN) and not result.candidates:
        return [Text.assemble(("error", "red"), f": {plain(result.name)}: {found.detail or found.headline}")]
    lines = [Text(), *_headline(found)]
    judged = sorted((s for s in found.standings if s.candidate.verdicts), key=lambda s: not s.is_winner)
    if judged:
        lines += [Text(), *_table(found, judged), Text(f"  {_LEGEND}", "dim")]
    names = short_names(result.candidates)
    if found.losers:
        lines += [Text(), Text(f"{found.losers_title}:")]
        lines += [_loser(standing, names) for standing in found.losers]
    if found.winner and (tight := tightest(found.winner.candidate, found.limits)):
        lines += [Text(), _cut(Text(f"Tightest budget of {names[found.winner.candidate.name]}: {tight}"))]
    if next_commands:
        width = max(len(command) for command, _ in next_commands)
        lines += [Text(), Text("Next:")]
        lines += [Text.assemble(f"  {command:<{width}}", (f"  {purpose}", "dim")) for command, purpose in next_commands]
    return lines


def _headline(found: Account) -> Iterator[Text]:
    yield _cut(Text.assemble(f"{plain(found.result.name)}: ", (found.headline, f"bold {_COLOURS[found.tone]}".strip())))
    if found.detail:
        yield _cut(Text(f"  {found.detail}"))
    for warning in found.warnings:
        yield _cut(Text(f"  {warning}", "yellow"))


def _table(found: Account, judged: Sequence[Standing]) -> Iterator[Text]:
    """Budgets down, candidates across; what does not fit within the width follows in another table below."""
    names = short_names(found.result.candidates)
    heads = [Text(title(limit.key)) for limit in found.limits]
    asked = [Text(f"{sign(limit)} {number(limit.value)}{unit(limit.key)}") for limit in found.limits]
    fixed = [[Text("budget", "dim"), *heads], [Text("limit", "dim"), *asked]]
    columns = [_column(found, standing, names) for standing in judged]
    while columns:
        if len(columns) < len(judged):
            yield Text()
        fitting = 1
        while fitting < len(columns) and _width([*fixed, *columns[: fitting + 1]]) <= WIDTH:
            fitting += 1
        yield from _laid_out([*fixed, *columns[:fitting]])
        columns = columns[fitting:]


def _column(found: Account, standing: Standing, names: dict[str, str]) -> list[Text]:
    verdicts = {verdict.budget: verdict for verdict in standing.candidate.verdicts}
    name = Text(_shortened(names[standing.candidate.name], 30), "bold" if standing.is_winner else "")
    capacity = standing.candidate.measured(CAPACITY)
    return [
        name,
        *(_cell(verdicts.get(limit.key), limit, capacity.value if capacity else None) for limit in found.limits),
    ]


def _cell(verdict: Verdict | None, limit: Limit, capacity: float | None) -> Text:
    if verdict is None:
        return Text(NONE, "dim")
    mark, colour = MARKS[verdict.verdict]
    return Text.assemble((mark, colour), f" {with_bound(verdict, limit, capacity)}".rstrip())


def _width(columns: Sequence[Sequence[Text]]) -> int:
    return 2 + sum(max(cell.cell_len for cell in column) for column in columns) + len(_GAP) * (len(columns) - 1)


def _laid_out(columns: Sequence[Sequence[Text]]) -> Iterator[Text]:
    widths = [max(cell.cell_len for cell in column) for column in columns]
    for row in zip(*columns, strict=True):
        line = Text("  ")
        for cell, width in zip(row, widths, strict=True):
            line.append_text(cell).append(" " * (width - cell.cell_len) + _GAP)
        line.rstrip()
        yield line


def _loser(standing: Standing, names: dict[str, str]) -> Text:
    why = "; ".join(standing.why)
    for name, short in names.items():
        why = why.replace(name, short)
    status = Text(standing.status, _COLOURS[standing.tone])
    return _cut(Text.assemble(f"  {names[standing.candidate.name]}: ", status, f": {why}" if why else ""))


def _cut(line: Text) -> Text:
    line.truncate(WIDTH, overflow="ellipsis")
    return line


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
