"""The command `optimize`: the table of commands, exit codes, errors and interrupts.

A command is a plain function that returns its exit code, or raises a ProveserveError. All are found by import string: those of the
packages above (`serve`, `loadtest`) because imports go one way, the others so that the table is whole.
"""

import functools
import importlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Annotated, ParamSpec

import typer

from optimize.errors import Exit, ProveserveError

COMMANDS = {
    "export": "optimize.commands.export:export",
    "validate": "optimize.commands.export:validate",
    "report": "optimize.commands.report:report",
    "init": "optimize.commands.init:init",
    "versions": "optimize.commands.versions:versions",
    "promote": "optimize.commands.versions:promote",
    "rollback": "optimize.commands.versions:rollback",
    "pull": "optimize.commands.versions:pull",
    "gc": "optimize.commands.versions:gc",
    "doctor": "optimize.commands.doctor:doctor",
    "serve": "serve.cli:serve",
    "token": "serve.access.auth_tokens:token",
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


_INTERRUPTED = threading.Event()
P = ParamSpec("P")


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - slow, and needed here only

        typer.echo(f"proveserve {version('proveserve')}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def _optimize(*, version: VersionOption = False) -> None:
    """Export, measure, publish and serve models that keep their budgets."""


def _reported(command: Callable[P, Exit]) -> Callable[P, None]:
    """Turn what a command returns or raises into an exit code, and an error into its one sentence on stderr."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except ProveserveError as error:
            typer.echo(f"error: {error}", err=True)
            code = error.exit_code
        except ModuleNotFoundError as error:
            typer.echo(
                f"error: {error.name} is not installed, and this command needs it; install proveserve[cpu]", err=True
            )
            code = Exit.USAGE
        except OSError as error:
            typer.echo(f"error: a file cannot be read or written: {error}", err=True)
            code = Exit.BROKEN
        except KeyboardInterrupt:
            code = _interrupted()
        except (
            Exception
        ):  # an interrupt may come out as another error, such as that of an extension's broken-off import
            if not _INTERRUPTED.is_set():
                raise
            code = _interrupted()
        raise typer.Exit(int(code))

    return run


def _interrupted() -> Exit:
    typer.echo("interrupted; nothing was left half-written", err=True)
    return Exit.INTERRUPTED


def _interrupt(number: int, frame: FrameType | None) -> None:
    _INTERRUPTED.set()
    signal.default_int_handler(number, frame)


def main() -> None:
    """Run the command line; SIGTERM ends a command as Ctrl-C does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    add_commands()
    app()


def add_commands() -> None:
    """Complete `app` with the commands of the table."""
    for name, target in COMMANDS.items():
        module, function = target.split(":")
        app.command(name)(_reported(getattr(importlib.import_module(module), function)))
