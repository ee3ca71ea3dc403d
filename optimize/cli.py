"""The command `optimize`: arguments, progress, exit codes.

A command is a plain function that returns its exit code, or raises a ProveserveError. Those of the packages above (`serve`,
`score`, `loadtest`) are found by import string, so that imports go one way; no command's module imports a heavy library before
its function runs.
"""

import functools
import importlib
from collections.abc import Callable
from typing import ParamSpec

import typer

from optimize.errors import Exit, ProveserveError

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


def main() -> None:
    """Run the command line."""
    for name, target in _COMMANDS_ABOVE.items():
        module, function = target.split(":")
        app.command(name)(_reported(getattr(importlib.import_module(module), function)))
    app()
