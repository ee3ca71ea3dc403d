"""The story of an export, in order: read, convert, take every candidate through its stages, choose, publish."""

from collections.abc import Callable, Iterator

import msgspec

from optimize.budgets import chosen
from optimize.errors import ArtifactError, Exit, ProveserveError
from optimize.execution.cache import Cache
from optimize.execution.environment import Environment, here
from optimize.execution.isolation import DEFAULT_TIMEOUT_S
from optimize.execution.progress import Progress, Silent
from optimize.execution.stage_runner import StageRunner
from optimize.manifest import CandidateResult, Manifest, Result, Winner
from optimize.project import Project
from optimize.registry import Registry
from optimize.tournament import choice, entry, estimate, publish, setup, stages
from optimize.tournament.candidate import Candidate
from optimize.tournament.judging.noise import with_noise
from optimize.tournament.rounds import Stage, result_of, through
from optimize.tournament.tournament import Tournament
from optimize.tournament.winner import Choice, choose


class Options(msgspec.Struct, frozen=True):
    """How an export runs: which models (all where empty), where it stops, and what each step may use.

    `serving_modules` are the modules that a serving process imports; they count as its memory.
    """

    models: tuple[str, ...] = ()
    quick: bool = False
    build_only: bool = False
    reuse: bool = True
    timeout_s: float = DEFAULT_TIMEOUT_S
    memory_mb: float | None = None
    serving_modules: tuple[str, ...] = ()


Outcome = tuple[tuple[CandidateResult, ...], Winner | None]


def export(
    project: Project, options: Options, progress: Progress | None = None, environment: Environment | None = None
) -> Iterator[Result]:
    """Export every requested model, each independently of the others, on this machine unless `environment` says otherwise.

    Each result is given as soon as it is there.

    Raises:
        UserError: A requested model is not in the budgets file.
    """
    for runner in _runners(project, options, progress, environment):
        yield _exported(runner, project.registry, options)


def validate(
    project: Project,
    options: Options,
    version: int | None,
    progress: Progress | None = None,
    environment: Environment | None = None,
) -> Iterator[Result]:
    """Judge a published version of each requested model (the current one by default) again.

    The judgement is kept with the version's manifest. A model without any version is exported, from what was built before.

    Raises:
        UserError: A requested model is not in the budgets file.
    """
    for runner in _runners(project, options, progress, environment):
        yield _validated(runner, project.registry, options, version)


def _runners(
    project: Project, options: Options, progress: Progress | None, environment: Environment | None
) -> list[StageRunner]:
    names = chosen(project.budgets, options.models, project.path)
    project.registry.check()
    cache = Cache(project.registry.scratch, reuse=options.reuse)
    place = environment or here(options.timeout_s, options.memory_mb)
    return [
        StageRunner(
            name=name,
            budgets=project.budgets.models[name],
            base=project.base,
            cache=cache,
            isolated=place.isolated,
            machine=place.machine,
            tools=place.tools,
            providers=place.providers,
            progress=progress or Silent(),
            clock=place.clock,
        )
        for name in names
    ]


def _exported(runner: StageRunner, registry: Registry, options: Options) -> Result:
    result = _result(runner, options, lambda: _run(runner, registry, options))
    return _kept(runner, result, lambda: registry.keep(result))


def _validated(runner: StageRunner, registry: Registry, options: Options, version: int | None) -> Result:
    try:
        if version is None and registry.current(runner.name) is None:
            return _exported(runner, registry, options)
        manifest = registry.load(runner.name, version)
    except ArtifactError as error:
        return _record(runner, options, error.exit_code, str(error))
    result = _result(runner, options, lambda: _run_again(runner, registry, options, manifest))
    return _kept(runner, result, lambda: registry.keep_judgement(manifest.version, result))


def _run(runner: StageRunner, registry: Registry, options: Options) -> Outcome:
    """Every candidate's result, and the winner as published."""
    tournament = setup.prepare(runner, options.serving_modules)
    tournament.enter("build")
    candidates, absent = entry.build_all(tournament)
    if options.build_only:
        return (*(candidate.result("built", "built, not measured") for candidate in candidates), *absent), None
    tournament.enter("screen")
    tournament = setup.with_screened_baseline(tournament)
    if options.quick:
        screened = through(tournament, candidates, stages.screened)
        return (_baseline(tournament), *(result_of(runner.budgets, one) for one in screened), *absent), None
    tournament, found = _judged(tournament, registry, candidates, stages.ready_to_publish)
    results = choice.with_winner(
        (_baseline(tournament), *found.results(runner.budgets), *absent), found.name, found.lost
    )
    if found.best is None:
        return results, None
    tournament.enter("publish")
    return results, _winner(registry, publish.publish(tournament, registry, found.best, results))


def _run_again(runner: StageRunner, registry: Registry, options: Options, manifest: Manifest) -> Outcome:
    """The result of one published version, which wins where it still meets every budget."""
    tournament = setup.prepare(runner, options.serving_modules)
    candidate = entry.published(tournament, registry, manifest)
    tournament.enter("screen")
    tournament = setup.with_screened_baseline(tournament)
    tournament, found = _judged(tournament, registry, [candidate], stages.load_tested)
    results = choice.with_winner((_baseline(tournament), *found.results(runner.budgets)), found.name, found.lost)
    return results, _winner(registry, manifest) if found.best else None


def _judged(
    tournament: Tournament, registry: Registry, candidates: list[Candidate], last: Stage
) -> tuple[Tournament, Choice]:
    """Take the candidates through every stage, and choose the best that comes through the last one."""
    _announce(tournament, len(candidates))
    candidates = through(tournament, candidates, stages.screened)
    tournament.enter("measure")
    tournament, candidates = with_noise(tournament, candidates)
    tournament = publish.with_current(tournament, registry)
    candidates = through(tournament, candidates, stages.measured)
    tournament.enter("confirm")
    candidates = through(tournament, candidates, stages.confirmed)
    tournament.enter("choose")
    return tournament, choose(tournament, candidates, last)


def _announce(tournament: Tournament, candidates: int) -> None:
    """Show what is ahead, and about how long it takes where nothing is cached."""
    rows = sum(count for split, count in tournament.source.rows.items() if split != "calibration")
    call_ms = tournament.baseline.measurements["screen.p50_ms"].value
    ahead, seconds = estimate.steps(tournament.budgets, candidates, rows, call_ms)
    tournament.runner.progress.expect(tournament.runner.name, seconds)
    tournament.note(f"ahead: {'; '.join(ahead)}. About {max(1, round(seconds / 60))} min, less what is cached")


def _baseline(tournament: Tournament) -> CandidateResult:
    return tournament.baseline.result("not-measured", "the baseline of every comparison, never published")


def _winner(registry: Registry, manifest: Manifest) -> Winner:
    precision, _, runtime = manifest.candidate.partition("@")
    path = registry.manifest_path(manifest.model, manifest.version)
    return Winner(manifest.candidate, precision, runtime, manifest.version, path)


def _result(runner: StageRunner, options: Options, run: Callable[[], Outcome]) -> Result:
    """One model's outcome; what the user must fix, or what broke, is an outcome too, and the other models go on."""
    try:
        candidates, winner = run()
    except ProveserveError as error:
        return _record(runner, options, error.exit_code, str(error))
    except OSError as error:
        return _record(runner, options, Exit.BROKEN, f"a file cannot be read or written: {error}")
    if winner is None:
        reason = choice.reason_of(runner.budgets, candidates, quick=options.quick, build_only=options.build_only)
    else:
        reason = f"{winner.candidate} wins"
    code = choice.exit_of(candidates, build_only=options.build_only)
    return _record(runner, options, code, reason, candidates, winner)


def _record(
    runner: StageRunner,
    options: Options,
    code: Exit,
    reason: str,
    candidates: tuple[CandidateResult, ...] = (),
    winner: Winner | None = None,
) -> Result:
    return Result(
        name=runner.name,
        exit=int(code),
        winner=winner,
        candidates=candidates,
        budgets=runner.budgets,
        release=not (options.quick or options.build_only),
        reason=reason,
        stages=runner.times.all,
        machine=runner.machine,
        tools=runner.tools,
        created=runner.clock.now().isoformat(timespec="seconds"),
    )


def _kept(runner: StageRunner, result: Result, keep: Callable[[], None]) -> Result:
    """The result once it is kept; where it cannot be, the run broke, and the result is returned nevertheless."""
    try:
        keep()
    except ProveserveError as error:
        reason = f"{result.reason}; the outcome is not kept for reports: {error}"
        runner.progress.note(runner.name, reason)
        return msgspec.structs.replace(result, exit=int(error.exit_code), reason=reason)
    return result
