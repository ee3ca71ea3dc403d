"""The command `optimize`: arguments, progress, exit codes.

A command is a plain function that returns its exit code, or raises a ProveserveError. Those of the packages above (`serve`,
`score`, `loadtest`) are found by import string, so that imports go one way; no command's module imports a heavy library before
its function runs.
"""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from optimize.errors import Exit, ProveserveError
from optimize.isolation import DEFAULT_TIMEOUT_S

_COMMANDS_ABOVE = {
    "serve": "serve.cli:serve",
    "score": "serve.scoring.cli:score",
    "loadtest": "loadtest.cli:loadtest",
}

app = typer.Typer(
    name="optimize",
    help="Export, measure, publish and serve models that keep their budgets.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


P = ParamSpec("P")
BudgetFile = Annotated[Path, typer.Option("--budget", help="The budgets file.")]


def _reported(command: Callable[P, Exit]) -> Callable[P, None]:
    """Turn what a command returns or raises into an exit code, and an error into its one sentence on stderr."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except ProveserveError as error:
            typer.echo(f"error: {error}", err=True)
            code = error.exit_code
        except KeyboardInterrupt:
            typer.echo("interrupted; nothing was left half-written", err=True)
            code = Exit.INTERRUPTED
        raise typer.Exit(int(code))

    return run


@app.command()
@_reported
def export(
    budget: BudgetFile = Path("budgets.toml"),
    model: Annotated[list[str] | None, typer.Option(help="Export only this model; repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Stop after the screens; publishes nothing.")] = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Use what earlier runs built and measured.")] = True,
    timeout: Annotated[
        float, typer.Option(help="Seconds that one step of one candidate may take.")
    ] = DEFAULT_TIMEOUT_S,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> Exit:
    """Build cheaper variants, measure each against its budgets, and publish the winner."""
    from optimize import pipeline, report, selection  # noqa: PLC0415 - numpy and onnxruntime, which `--help` does without
    from optimize.progress import shown  # noqa: PLC0415

    options = pipeline.Options(models=tuple(model or ()), quick=quick, reuse=cache, timeout_s=timeout)
    results = pipeline.export(budget, options, shown())
    for line in report.as_lines(results):
        typer.echo(line, err=True)
    if as_json:
        typer.echo(report.as_json(results))
    return selection.worst(result.exit for result in results)


@app.command()
@_reported
def doctor() -> Exit:
    """Say what this machine can build, run and measure."""
    from optimize.diagnosis import diagnose  # noqa: PLC0415

    healthy, lines = diagnose()
    for line in lines:
        typer.echo(line)
    return Exit.OK if healthy else Exit.BROKEN


def main() -> None:
    """Run the command line."""
    for name, target in _COMMANDS_ABOVE.items():
        module, function = target.split(":")
        app.command(name)(_reported(getattr(importlib.import_module(module), function)))
    app()
