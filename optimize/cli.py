"""The command `optimize`: arguments, progress, exit codes.

A command is a plain function that returns its exit code, or raises a ProveserveError. Those of the packages above (`serve`,
`score`, `loadtest`) are found by import string, so that imports go one way; no command's module imports a heavy library before
its function runs.
"""

import functools
import importlib
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, ParamSpec

import typer

from optimize.errors import ArtifactError, Exit, ProveserveError, UserError
from optimize.execution.isolation import DEFAULT_TIMEOUT_S

_COMMANDS_ABOVE = {
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
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
ModelArgument = Annotated[str, typer.Argument(help="A published model.")]
RegistryOption = Annotated[str, typer.Option(help="Where versions are published: a folder or s3://bucket/prefix.")]
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
        ):  # what an interrupt breaks off may come out as another error, such as an extension's failed import
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


@app.command()
@_reported
def export(
    budget: BudgetFile = Path("budgets.toml"),
    model: Annotated[list[str] | None, typer.Option(help="Export only this model; repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Stop after the screens; publishes nothing.")] = False,
    build_only: Annotated[
        bool, typer.Option("--build-only", help="Build what can be built here; judge and publish nothing.")
    ] = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Use what earlier runs built and measured.")] = True,
    timeout: Annotated[
        float, typer.Option(help="Seconds that one step of one candidate may take.", min=1)
    ] = DEFAULT_TIMEOUT_S,
    as_json: JsonOption = False,
    report_to: Annotated[
        Path | None,
        typer.Option("--report", help="Write report.html, report.md and report.json here.", file_okay=False),
    ] = None,
) -> Exit:
    """Build cheaper variants, measure each against its budgets, and publish the winner."""
    from optimize import pipeline, report  # noqa: PLC0415 - numpy and onnxruntime, which `--help` does without
    from optimize.execution.progress import shown  # noqa: PLC0415
    from optimize.report import outputs  # noqa: PLC0415
    from optimize.tournament import choice  # noqa: PLC0415

    if quick and build_only:
        raise UserError("--quick and --build-only were both given; choose the screens or only the builds")
    options = pipeline.Options(tuple(model or ()), quick, build_only, cache, timeout)
    registry = outputs.registry_of(budget)  # the file may be edited while an export runs
    results = pipeline.export(budget, options, shown())
    for line in report.as_lines(results):
        typer.echo(line, err=True)
    findings = outputs.of_run(registry, results)
    if as_json:
        typer.echo(outputs.document(findings))
    for path in outputs.write(findings, report_to) if report_to else ():
        typer.echo(f"wrote {path}", err=True)
    return choice.worst(result.exit for result in results)


@app.command()
@_reported
def validate(
    budget: BudgetFile = Path("budgets.toml"),
    model: Annotated[list[str] | None, typer.Option(help="Judge only this model; repeatable.")] = None,
    version: Annotated[int | None, typer.Option(help="A published version; by default the current one.")] = None,
    as_json: JsonOption = False,
) -> Exit:
    """Judge a published version again, on this machine."""
    from optimize import pipeline, report  # noqa: PLC0415
    from optimize.execution.progress import shown  # noqa: PLC0415
    from optimize.report import outputs  # noqa: PLC0415
    from optimize.tournament import choice  # noqa: PLC0415

    registry = outputs.registry_of(budget)
    results = pipeline.validate(budget, pipeline.Options(tuple(model or ())), version, shown())
    for line in report.as_lines(results):
        typer.echo(line, err=True)
    if as_json:
        typer.echo(outputs.document(outputs.of_run(registry, results)))
    return choice.worst(result.exit for result in results)


@app.command()
@_reported
def report(
    budget: BudgetFile = Path("budgets.toml"),
    model: Annotated[list[str] | None, typer.Option(help="Report only this model; repeatable.")] = None,
    output: Annotated[Path, typer.Option(help="Folder to write to.", file_okay=False)] = Path("report"),
    only: Annotated[Literal["html", "md", "json", "all"], typer.Option("--format", help="What to write.")] = "all",
) -> Exit:
    """Write what the last export found as one HTML page, as Markdown and as JSON; measures nothing."""
    from optimize.report import outputs  # noqa: PLC0415

    findings = outputs.collect(budget, tuple(model or ()))
    for name in findings.absent:
        typer.echo(
            f"{name}: never exported, so not in the report; run: optimize export --budget {budget} --model {name}",
            err=True,
        )
    for path in outputs.write(findings, output, outputs.FORMATS if only == "all" else (only,)):
        typer.echo(f"wrote {path}")
    return Exit.OK


@app.command()
@_reported
def init(
    model: Annotated[str, typer.Argument(help="A .onnx file, or file.py:attr that names an nn.Module or its factory.")],
    output: Annotated[Path, typer.Option(help="File to write; never overwritten.")] = Path("budgets.toml"),
) -> Exit:
    """Write a commented budgets.toml for a model."""
    from optimize.init_file import budgets_toml  # noqa: PLC0415

    text = budgets_toml(model, Path.cwd(), output)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{output}: is there already; name another file with --output, or delete it") from None
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {output}; read it through, set your limits, then run: optimize export --budget {output}")
    return Exit.OK


@app.command()
@_reported
def versions(model: ModelArgument, registry: RegistryOption = "artifacts") -> Exit:
    """List the published versions of a model."""
    from optimize.registry import Registry  # noqa: PLC0415

    store = Registry(registry)
    current, code = store.current(model), Exit.OK
    for number in store.versions(model) or [store.load(model).version]:
        try:
            manifest = store.load(model, number)
        except ArtifactError as error:  # the others are of use all the same, for one to go back to
            typer.echo(f"error: {error}", err=True)
            code = error.exit_code
            continue
        served = "current" if number == current else ""
        typer.echo(
            f"{number:>4}  {manifest.created}  {manifest.candidate:<30} {manifest.digest[:12]}  {served}".rstrip()
        )
    return code


@app.command()
@_reported
def promote(
    model: ModelArgument,
    version: Annotated[int, typer.Argument(help="A published version.")],
    registry: RegistryOption = "artifacts",
) -> Exit:
    """Make a published version the one that is served."""
    from optimize.registry import Registry  # noqa: PLC0415

    Registry(registry).promote(model, version)
    typer.echo(f"{model}: version {version} is current")
    return Exit.OK


@app.command()
@_reported
def rollback(model: ModelArgument, registry: RegistryOption = "artifacts") -> Exit:
    """Serve the version before the current one again."""
    from optimize.registry import Registry  # noqa: PLC0415

    typer.echo(f"{model}: version {Registry(registry).rollback(model)} is current")
    return Exit.OK


@app.command()
@_reported
def gc(
    registry: RegistryOption = "artifacts",
    older_than: Annotated[float, typer.Option(help="Hours that a file must be old.", min=0)] = 24.0,
) -> Exit:
    """Delete files that no published version names, and cached work that no export used for 30 days."""
    from optimize.execution.cache import UNUSED_DAYS, sweep  # noqa: PLC0415
    from optimize.manifest import counted  # noqa: PLC0415
    from optimize.registry import Registry  # noqa: PLC0415

    store = Registry(registry)
    deleted = store.collect(older_than_s=older_than * 3600)
    typer.echo(f"deleted {counted(len(deleted), 'file')} that no version names")
    swept, size_bytes = sweep(store.scratch, unused_s=UNUSED_DAYS * 86_400)
    if swept:
        entries = counted(swept, "cached entry", "cached entries")
        typer.echo(f"deleted {entries} ({size_bytes / 1e6:.1f} MB) that no export used for {UNUSED_DAYS} days")
    return Exit.OK


@app.command()
@_reported
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
    usual = Path("budgets.toml")
    if budget is not None or usual.exists():
        for line in doctor.target_requirements(budgets.load(budget or usual)):
            typer.echo(line)
    return Exit.OK if healthy else Exit.BROKEN


def main() -> None:
    """Run the command line; SIGTERM ends a command as Ctrl-C does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    add_commands_above()
    app()


def add_commands_above() -> None:
    """Complete `app` with the commands of the packages above."""
    for name, target in _COMMANDS_ABOVE.items():
        module, function = target.split(":")
        app.command(name)(_reported(getattr(importlib.import_module(module), function)))
