"""Report: what the last export found, as files or as one candidate's evidence."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from optimize.commands.options import DEFAULT_BUDGETS, BudgetFile, ExplainOption
from optimize.errors import Exit

if TYPE_CHECKING:
    from optimize.manifest import Result


def report(
    budget: BudgetFile = DEFAULT_BUDGETS,
    model: Annotated[list[str] | None, typer.Option(help="Report only this model; repeatable.")] = None,
    output: Annotated[Path, typer.Option(help="Folder to write to.", file_okay=False)] = Path("report"),
    only: Annotated[Literal["html", "md", "json", "all"], typer.Option("--format", help="What to write.")] = "all",
    explain: ExplainOption = None,
) -> Exit:
    """Write what the last export found as one HTML page, as Markdown and as JSON; measures nothing.

    With --explain, print the evidence of one candidate and write nothing.
    """
    from optimize.report import outputs  # noqa: PLC0415

    findings = outputs.collect(budget, tuple(model or ()))
    if explain is not None:
        print_evidence(findings.results, explain)
        return Exit.OK
    for name in findings.absent:
        typer.echo(
            f"{name}: never exported, so not in the report; run: optimize export --budget {budget} --model {name}",
            err=True,
        )
    for path in outputs.write(findings, output, outputs.FORMATS if only == "all" else (only,)):
        typer.echo(f"wrote {path}")
    return Exit.OK


def print_evidence(results: Sequence["Result"], candidate: str, *, to_stderr: bool = False) -> None:
    """Print all that was found of a candidate.

    Raises:
        UserError: No result has a candidate of that name.
    """
    from rich.console import Console  # noqa: PLC0415 - drawing, which `--help` does without

    from optimize.report import explained  # noqa: PLC0415

    console = Console(stderr=to_stderr)
    for line in explained(results, candidate):
        console.print(line, soft_wrap=True)
