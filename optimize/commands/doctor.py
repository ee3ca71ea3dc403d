"""Doctor: what this machine can do."""

from pathlib import Path
from typing import Annotated

import typer

from optimize.commands.options import DEFAULT_BUDGETS
from optimize.errors import Exit


def doctor(
    budget: Annotated[
        Path | None,
        typer.Option(help="A budgets file whose targets to look at; by default budgets.toml, if it is here."),
    ] = None,
) -> Exit:
    """Say what this machine can build, run and measure, and which hardware the targets of a budgets file ask for."""
    from optimize import budgets, doctor  # noqa: PLC0415

    healthy, lines = doctor.diagnose()
    for line in lines:
        typer.echo(line)
    if budget is not None or DEFAULT_BUDGETS.exists():
        for line in doctor.target_requirements(budgets.load(budget or DEFAULT_BUDGETS)):
            typer.echo(line)
    return Exit.OK if healthy else Exit.BROKEN
