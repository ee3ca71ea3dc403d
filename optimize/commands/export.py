"""Export and validate: run, show progress, and print each model's result as soon as it is there."""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optimize.commands.options import (
    DEFAULT_BUDGETS,
    DEFAULT_REGISTRY,
    BudgetFile,
    ExplainOption,
    JsonOption,
    VerboseOption,
)
from optimize.commands.report import print_evidence
from optimize.errors import Exit, UserError
from optimize.execution.isolation import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from optimize.execution.progress import Phases
    from optimize.manifest import Result
    from optimize.project import Project

# What a serving process imports, so that it counts as the memory that a candidate needs.
SERVING_MODULES = ("ray", "grpc", "serve.rayserve.deployment")
NextCommands = list[tuple[str, str]]


ModelOption = Annotated[list[str] | None, typer.Option(help="Export only this model; repeatable.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="Stop after the screens; publishes nothing.")]
BuildOnlyOption = Annotated[
    bool, typer.Option("--build-only", help="Build what can be built here; judge and publish nothing.")
]
CacheOption = Annotated[bool, typer.Option("--cache/--no-cache", help="Use what earlier runs built and measured.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds that one step of one candidate may take.", min=1)]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Write report.html, report.md and report.json here.", file_okay=False)
]


def export(  # noqa: PLR0913, PLR0917 - an argument for each option of the command
    budget: BudgetFile = DEFAULT_BUDGETS,
    model: ModelOption = None,
    quick: QuickOption = False,
    build_only: BuildOnlyOption = False,
    cache: CacheOption = True,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
    explain: ExplainOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
    report_to: ReportOption = None,
) -> Exit:
    """Build cheaper variants, measure each against its budgets, and publish the winner."""
    from optimize import pipeline, project  # noqa: PLC0415 - numpy and onnxruntime, which `--help` does without
    from optimize.execution import progress  # noqa: PLC0415
    from optimize.report import outputs  # noqa: PLC0415
    from optimize.tournament import choice  # noqa: PLC0415

    if quick and build_only:
        raise UserError("--quick and --build-only were both given; choose the screens or only the builds")
    options = pipeline.Options(tuple(model or ()), quick, build_only, cache, timeout, serving_modules=SERVING_MODULES)
    exported = project.read(budget)
    advice = _adviser(exported, options.models)
    with progress.shown(verbose=verbose) as phases:
        results = _printed(pipeline.export(exported, options, phases), phases, advice, verbose=verbose)
    findings = outputs.of_run(exported.registry, results)
    if as_json:
        typer.echo(outputs.document(findings))
    for path in outputs.write(findings, report_to) if report_to else ():
        typer.echo(f"wrote {path}", err=True)
    if explain is not None:
        print_evidence(results, explain, to_stderr=True)
    return choice.worst(result.exit for result in results)


def validate(
    budget: BudgetFile = DEFAULT_BUDGETS,
    model: Annotated[list[str] | None, typer.Option(help="Judge only this model; repeatable.")] = None,
    version: Annotated[int | None, typer.Option(help="A published version; by default the current one.")] = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> Exit:
    """Judge a published version again, on this machine."""
    from optimize import pipeline, project  # noqa: PLC0415
    from optimize.execution import progress  # noqa: PLC0415
    from optimize.report import outputs  # noqa: PLC0415
    from optimize.tournament import choice  # noqa: PLC0415

    validated = project.read(budget)
    options = pipeline.Options(tuple(model or ()), serving_modules=SERVING_MODULES)
    with progress.shown(verbose=verbose) as phases:
        results = _printed(
            pipeline.validate(validated, options, version, phases), phases, lambda _: [], verbose=verbose
        )
    if as_json:
        typer.echo(outputs.document(outputs.of_run(validated.registry, results)))
    return choice.worst(result.exit for result in results)


def _printed(
    results: Iterable["Result"], phases: "Phases", advice: Callable[["Result"], NextCommands], *, verbose: bool
) -> list["Result"]:
    from optimize.report import as_lines, explanation  # noqa: PLC0415

    found = []
    for result in results:
        phases.end(broken=not result.candidates)
        if verbose:
            for candidate in result.candidates:
                phases.print(explanation(result, candidate))
        phases.print(as_lines(result, advice(result)))
        found.append(result)
    return found


def _adviser(exported: "Project", models: tuple[str, ...]) -> Callable[["Result"], NextCommands]:
    """What to run after each result; it knows the models that follow."""
    from optimize.budgets import chosen  # noqa: PLC0415

    ahead = list(chosen(exported.budgets, models, exported.path))

    def advice(result: "Result") -> NextCommands:
        ahead.remove(result.name)
        return _next_commands(result, exported.path, exported.registry.place, ahead)

    return advice


def _next_commands(result: "Result", budget: Path, registry: str, ahead: list[str]) -> NextCommands:
    """What to run after a result: serve the winner, see the report, look into the best of the others."""
    found: NextCommands = []
    if result.exit in (Exit.USAGE, Exit.BROKEN) and not result.candidates:
        return found
    if result.winner is not None:
        place = (
            ""
            if registry == str(Path(DEFAULT_REGISTRY).absolute())
            else f" --registry {shlex.quote(_nearby(registry))}"
        )
        follows = f"; {', '.join(ahead)} follow{'s' if len(ahead) == 1 else ''} here" if ahead else ""
        found.append((f"optimize serve{place}", f"serve {result.name} now{follows}"))
    if not result.release:
        return found
    which = "" if budget == DEFAULT_BUDGETS else f" --budget {shlex.quote(str(budget))}"
    found.append((f"optimize report{which}", "the evidence as a page: report/report.html"))
    others = [other.name for other in result.candidates if other.verdicts and other.status != "winner"]
    if others:
        found.append((f"optimize report{which} --explain {shlex.quote(others[0])}", "why it did not win"))
    return found


def _nearby(place: str) -> str:
    """A folder below this one by its relative path, since that is shorter."""
    return str(Path(place).relative_to(Path.cwd())) if Path(place).is_relative_to(Path.cwd()) else place
