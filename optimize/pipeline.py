"""The story of an export, in order: read, convert, try every candidate, choose, publish."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from optimize import budgets as budgeting
from optimize.convert import baseline as exporting
from optimize.convert.baseline import BASELINE, Conversion
from optimize.convert.candidate_specs import candidate_specs, disabled_optimizers
from optimize.errors import ArtifactError, CandidateError, Exit, ProveserveError, SourceError
from optimize.execution.cache import Cache, key_of
from optimize.execution.environment import Environment, here
from optimize.execution.isolation import DEFAULT_TIMEOUT_S
from optimize.execution.stage_runner import Progress, Silent, StageRunner, stored
from optimize.manifest import (
    Artifact,
    CandidateResult,
    Golden,
    Manifest,
    Preprocessing,
    Result,
    SessionOptions,
    Winner,
    digest_of,
)
from optimize.measure import golden, operating
from optimize.registry import Registry, location
from optimize.source import preprocess_package
from optimize.source.loading import PART_ROWS, RAW, Source, read
from optimize.tournament import choice, estimate, finals, trials
from optimize.tournament.trials import Candidate, Tournament
from optimize.tournament.winner import elected, standing, through, with_noise

_ENGINE = (
    "built, not measured: an engine runs on the GPU that it was built for alone, so here it can neither pass nor win"
)


class Options(msgspec.Struct, frozen=True):
    """How an export runs: which models (all where empty), where it stops, and what each step may use."""

    models: tuple[str, ...] = ()
    quick: bool = False
    build_only: bool = False
    reuse: bool = True
    timeout_s: float = DEFAULT_TIMEOUT_S
    memory_mb: float | None = None


def export(
    budgets_path: Path, options: Options, progress: Progress | None = None, environment: Environment | None = None
) -> list[Result]:
    """Export every asked-for model of a budgets file, each independently of the others, on this machine unless told otherwise.

    Raises:
        UserError: The budgets file cannot be used, or a model that was asked for is not in it.
    """
    registry, runners = _benches(budgets_path, options, progress, environment)
    return [_exported(runner, registry, options) for runner in runners]


def validate(
    budgets_path: Path,
    options: Options,
    version: int | None,
    progress: Progress | None = None,
    environment: Environment | None = None,
) -> list[Result]:
    """Judge a published version of each asked-for model (the current one by default) again, on this machine unless told otherwise.

    The judgement is kept beside the version's manifest. A model without any version is exported, from what was built before.

    Raises:
        UserError: The budgets file cannot be used, or a model that was asked for is not in it.
    """
    registry, runners = _benches(budgets_path, options, progress, environment)
    return [_validated(runner, registry, options, version) for runner in runners]


def _benches(
    budgets_path: Path, options: Options, progress: Progress | None, environment: Environment | None
) -> tuple[Registry, list[StageRunner]]:
    budgets = budgeting.load(budgets_path)
    names = budgeting.chosen(budgets, options.models, budgets_path)
    registry = Registry(location(budgets_path, budgets))
    registry.check()
    cache = Cache(registry.scratch, reuse=options.reuse)
    place = environment or here(options.timeout_s, options.memory_mb)
    return registry, [
        StageRunner(
            name=name,
            budgets=budgets.models[name],
            base=budgets_path.parent.absolute(),
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
    result = _result(runner, registry, options)
    return _kept(runner, result, lambda: registry.keep(result))


def _validated(runner: StageRunner, registry: Registry, options: Options, version: int | None) -> Result:
    try:
        if version is None and registry.current(runner.name) is None:
            return _exported(runner, registry, options)
        manifest = registry.load(runner.name, version)
    except ArtifactError as error:
        return _outcome(runner, options, error.exit_code, str(error))
    result = _result(runner, registry, options, manifest)
    return _kept(runner, result, lambda: registry.keep_judgement(manifest.version, result))


def _kept(runner: StageRunner, result: Result, keep: Callable[[], None]) -> Result:
    """The result once it is kept; where it cannot be, the run broke, and what was found is told all the same."""
    try:
        keep()
    except ProveserveError as error:
        reason = f"{result.reason}; the outcome is not kept for reports: {error}"
        runner.progress.note(runner.name, reason)
        return msgspec.structs.replace(result, exit=int(error.exit_code), reason=reason)
    return result


def _result(runner: StageRunner, registry: Registry, options: Options, published: Manifest | None = None) -> Result:
    """One model's outcome; what the user must mend, or what broke, is an outcome too, and the other models go on."""
    try:
        tried, winner = _proven(runner, registry, options, published)
    except ProveserveError as error:
        return _outcome(runner, options, error.exit_code, str(error))
    except OSError as error:
        return _outcome(runner, options, Exit.BROKEN, f"a file cannot be read or written: {error}")
    code = choice.exit_of(tried, build_only=options.build_only)
    lacking = choice.reason_of(runner.budgets, tried, quick=options.quick, build_only=options.build_only)
    return _outcome(runner, options, code, f"{winner.candidate} wins" if winner else lacking, tried, winner)


def _outcome(
    runner: StageRunner,
    options: Options,
    code: Exit,
    reason: str,
    tried: tuple[CandidateResult, ...] = (),
    winner: Winner | None = None,
) -> Result:
    return Result(
        name=runner.name,
        exit=int(code),
        winner=winner,
        candidates=tried,
        budgets=runner.budgets,
        release=not (options.quick or options.build_only),
        reason=reason,
        stages=tuple(runner.stages),
        machine=runner.machine,
        tools=runner.tools,
        created=_now(runner),
    )


def _now(runner: StageRunner) -> str:
    return runner.clock.now().isoformat(timespec="seconds")


def _proven(
    runner: StageRunner, registry: Registry, options: Options, published: Manifest | None
) -> tuple[tuple[CandidateResult, ...], Winner | None]:
    """Every candidate's result, and the winner as published."""
    tournament = prepare(runner)
    session = SessionOptions(target="cpu", threads=1)
    candidates, absent = (
        _entered(tournament, session) if published is None else ([_entrant(tournament, registry, published)], [])
    )
    if options.build_only:
        return (*(candidate.result("built", "built, not measured") for candidate in candidates), *absent), None
    baseline = _baseline(tournament, session)
    if not options.quick:
        _announce(tournament, baseline, len(candidates))
    candidates = through(tournament, candidates, lambda candidate: trials.screened(tournament, candidate, baseline))
    best = None
    if not options.quick:
        tournament, candidates = with_noise(tournament, candidates)
        current = _current(tournament, registry)
        candidates = through(tournament, candidates, lambda candidate: trials.measured(tournament, candidate, baseline))
        candidates = through(
            tournament, candidates, lambda candidate: finals.confirmed(tournament, candidate, baseline, current)
        )
        best, candidates = elected(tournament, candidates, finals.described if published is None else finals.loaded)
    reference = baseline.result("not-measured", "the baseline of every comparison, never published")
    tried = [standing(runner, candidate, beaten=best is not None and not candidate.loaded) for candidate in candidates]
    placed = choice.placed([reference, *tried, *absent], best.name if best else None, runner.lost_to)
    if best is None:
        return placed, None
    return placed, _winner(registry, best, published or _published(tournament, registry, best, placed))


def _announce(tournament: Tournament, baseline: Candidate, candidates: int) -> None:
    """Say what is to come, and about how long it takes where nothing is cached."""
    runner, rows = tournament.runner, tournament.source.rows
    judged = sum(count for split, count in rows.items() if split != "calibration")
    ahead, seconds = estimate.steps(runner.budgets, candidates, judged, baseline.measurements["screen.p50_ms"].value)
    runner.progress.note(
        runner.name, f"ahead: {'; '.join(ahead)}. About {max(1, round(seconds / 60))} min, less what is cached"
    )


def _entrant(tournament: Tournament, registry: Registry, manifest: Manifest) -> Candidate:
    """A published version as an candidate, opened as it was measured."""
    precision, _, runtime = manifest.candidate.partition("@")
    path, artifact = registry.model_file(manifest), manifest.artifact
    model_ref = tournament.model_ref(artifact.options, path)
    return Candidate(manifest.candidate, precision, runtime, model_ref, manifest.digest, artifact, settled=True)


def _winner(registry: Registry, best: Candidate, manifest: Manifest) -> Winner:
    path = registry.manifest_path(manifest.model, manifest.version)
    return Winner(best.name, best.precision, best.runtime, manifest.version, path)


def _current(tournament: Tournament, registry: Registry) -> Candidate | None:
    """The version that is served now, for `speed.max_slowdown`, where it takes the same inputs."""
    if tournament.runner.budgets.speed.max_slowdown is None:
        return None
    served = _served(tournament, registry)
    if served is None or served.signature.inputs != tournament.signature.inputs:
        return None
    return _entrant(tournament, registry, served)


def _served(tournament: Tournament, registry: Registry) -> Manifest | None:
    """The current version, where there is one; a damaged one is as good as none, since this run publishes the next."""
    name = tournament.runner.name
    try:
        if registry.current(name) is None:
            return None
        manifest = registry.load(name)
        registry.model_file(manifest)
    except ArtifactError as error:
        tournament.runner.progress.note(name, f"the current version counts as none: {error}")
        return None
    return manifest


def prepare(runner: StageRunner) -> Tournament:
    """Read source and samples, and convert to the baseline graph.

    Raises:
        SourceError: The source or its samples cannot be used.
    """
    budgets = runner.budgets
    try:
        source, splits = _read(runner)
        depends = (source.source_digest, source.data_digest, budgets.inputs, budgets.outputs, budgets.dims)
        taken = None
        if budgets.preprocess is not None and source.rows:
            parts = (budgets.preprocess, source.source_digest, source.data_digest)
            raw = splits / f"{RAW}.npz"
            taken = runner.build(
                "code of preprocess", parts, preprocess_package.take, budgets.preprocess, runner.base, raw
            )
        folder = runner.build("export to ONNX", depends, exporting.convert, budgets, runner.base, splits)
    except CandidateError as error:
        raise SourceError(f"{budgets.source}: {error}") from None
    conversion = stored(folder, Conversion)
    exporting.check_latency_batch(budgets.latency.batch, conversion.signature.dims)
    runner.progress.note(
        runner.name,
        f"the ONNX graph answers as the source does, within {conversion.max_difference:.2g} on real samples",
    )
    baseline = folder / BASELINE
    return Tournament(runner, source, conversion.signature, splits, baseline, digest_of(baseline), taken)


def _read(runner: StageRunner) -> tuple[Source, Path]:
    """Source and samples are read anew in every run: only then is it known whether they changed."""
    with tempfile.TemporaryDirectory(prefix="proveserve-samples-") as name:
        fresh = Path(name)
        with runner.progress.step(runner.name, "read source and samples"):
            source = runner.isolated(read, runner.budgets, runner.base, fresh)

        def keep(folder: Path) -> None:
            for file in fresh.iterdir():
                shutil.copyfile(file, folder / file.name)

        return source, runner.cache.folder("samples", key_of(source.data_digest, PART_ROWS), keep)


def _baseline(tournament: Tournament, session: SessionOptions) -> Candidate:
    candidate = trials.source(tournament, session)
    try:
        return trials.screened(tournament, candidate, candidate)
    except CandidateError as error:
        raise SourceError(f"{tournament.runner.budgets.source}: the source model itself {error}") from None


def _entered(tournament: Tournament, session: SessionOptions) -> tuple[list[Candidate], list[CandidateResult]]:
    """Build every spec that applies; the others, with their reasons, are results already."""
    candidates, absent = [], []
    for spec in candidate_specs(tournament.runner.budgets, tournament.source.rows, tournament.runner.providers):
        if spec.reason:
            absent.append(CandidateResult(spec.name, spec.precision, spec.runtime, "n/a", spec.reason))
            continue
        try:
            options = SessionOptions(spec.target, session.threads, disabled_optimizers(spec))
            candidate = trials.enter(tournament, spec, options)
            if spec.engine:
                absent.append(candidate.result("built", _ENGINE))
            else:
                candidates.append(candidate)
        except CandidateError as error:
            absent.append(CandidateResult(spec.name, spec.precision, spec.runtime, "failed", str(error)))
            tournament.runner.progress.note(tournament.runner.name, f"{spec.name} failed: {error}")
    return candidates, absent


def _published(
    tournament: Tournament, registry: Registry, best: Candidate, placed: tuple[CandidateResult, ...]
) -> Manifest:
    """Publish the best, unless the current version is this very answer to these very budgets."""
    manifest = _manifest(tournament, registry, best, placed)
    served = _served(tournament, registry)
    if served is not None and _same(served, manifest):
        return served
    manifest = registry.publish(manifest)
    tournament.runner.progress.note(manifest.model, f"published version {manifest.version}")
    return manifest


def _same(published: Manifest, manifest: Manifest) -> bool:
    return all(
        getattr(published, name) == getattr(manifest, name)
        for name in (
            "candidate",
            "artifact",
            "signature",
            "budgets",
            "source_digest",
            "data_digest",
            "machine",
            "tools",
            "preprocessing",
        )
    )


def _manifest(
    tournament: Tournament, registry: Registry, best: Candidate, placed: tuple[CandidateResult, ...]
) -> Manifest:
    runner, laid_out = tournament.runner, finals.layouts(tournament, best)
    answered = finals.golden_answers(tournament, best)
    recorded = stored(answered, golden.Recorded)
    return Manifest(
        schema=1,
        model=runner.name,
        version=0,
        created=_now(runner),
        candidate=best.name,
        artifact=_stored_artifact(registry, best),
        signature=tournament.signature,
        budgets=runner.budgets,
        verdicts=tuple(best.verdicts.values()),
        curve=best.curve,
        candidates=placed,
        golden=Golden(
            registry.put(answered / golden.GOLDEN, golden.GOLDEN), recorded.count, recorded.atol, recorded.rtol
        ),
        source_digest=tournament.source.source_digest,
        data_digest=tournament.source.data_digest,
        tools=runner.tools,
        machine=runner.machine,
        online=operating.online(laid_out, best.model_ref.options.threads),
        bulk=operating.bulk(laid_out),
        preprocessing=_preprocessing(tournament, registry),
    )


def _preprocessing(tournament: Tournament, registry: Registry) -> Preprocessing | None:
    spec = tournament.runner.budgets.preprocess
    if spec is None or tournament.portable is None:
        return None
    return preprocess_package.published(
        spec, stored(tournament.portable, preprocess_package.Taken), tournament.portable, registry
    )


def _stored_artifact(registry: Registry, best: Candidate) -> Artifact:
    if best.artifact is None or best.folder is None:
        raise CandidateError(f"{best.name} has no files to publish")
    files = tuple(registry.put(best.folder / blob.name, blob.name) for blob in best.artifact.files)
    return msgspec.structs.replace(best.artifact, files=files)
