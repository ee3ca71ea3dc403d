"""The story of an export, in order: read, convert, try every candidate, choose, publish."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from optimize import budgets as budgeting
from optimize.convert import baseline as exporting
from optimize.convert import candidate_specs
from optimize.convert.baseline import BASELINE, Conversion
from optimize.errors import ArtifactError, CandidateError, Exit, ProveserveError, SourceError
from optimize.execution.cache import Cache, key_of
from optimize.execution.environment import Environment, here
from optimize.execution.isolation import DEFAULT_TIMEOUT_S
from optimize.execution.stage_runner import Bench, Progress, Silent, stored
from optimize.manifest import (
    Artifact,
    Golden,
    Manifest,
    Preprocessing,
    Result,
    SessionOptions,
    Trial,
    Winner,
    digest_of,
)
from optimize.measure import golden, operating
from optimize.registry import Registry, location
from optimize.source import preprocess_package
from optimize.source.loading import PART_ROWS, RAW, Reading, read
from optimize.tournament import choice, estimate, finals, trials
from optimize.tournament.trials import Entrant, Ground
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
    registry, benches = _benches(budgets_path, options, progress, environment)
    return [_exported(bench, registry, options) for bench in benches]


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
    registry, benches = _benches(budgets_path, options, progress, environment)
    return [_validated(bench, registry, options, version) for bench in benches]


def _benches(
    budgets_path: Path, options: Options, progress: Progress | None, environment: Environment | None
) -> tuple[Registry, list[Bench]]:
    budgets = budgeting.load(budgets_path)
    names = budgeting.chosen(budgets, options.models, budgets_path)
    registry = Registry(location(budgets_path, budgets))
    registry.check()
    cache = Cache(registry.scratch, reuse=options.reuse)
    place = environment or here(options.timeout_s, options.memory_mb)
    return registry, [
        Bench(
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


def _exported(bench: Bench, registry: Registry, options: Options) -> Result:
    result = _result(bench, registry, options)
    return _kept(bench, result, lambda: registry.keep(result))


def _validated(bench: Bench, registry: Registry, options: Options, version: int | None) -> Result:
    try:
        if version is None and registry.current(bench.name) is None:
            return _exported(bench, registry, options)
        manifest = registry.load(bench.name, version)
    except ArtifactError as error:
        return _outcome(bench, options, error.exit_code, str(error))
    result = _result(bench, registry, options, manifest)
    return _kept(bench, result, lambda: registry.keep_judgement(manifest.version, result))


def _kept(bench: Bench, result: Result, keep: Callable[[], None]) -> Result:
    """The result once it is kept; where it cannot be, the run broke, and what was found is told all the same."""
    try:
        keep()
    except ProveserveError as error:
        reason = f"{result.reason}; the outcome is not kept for reports: {error}"
        bench.progress.note(bench.name, reason)
        return msgspec.structs.replace(result, exit=int(error.exit_code), reason=reason)
    return result


def _result(bench: Bench, registry: Registry, options: Options, published: Manifest | None = None) -> Result:
    """One model's outcome; what the user must mend, or what broke, is an outcome too, and the other models go on."""
    try:
        tried, winner = _proven(bench, registry, options, published)
    except ProveserveError as error:
        return _outcome(bench, options, error.exit_code, str(error))
    except OSError as error:
        return _outcome(bench, options, Exit.BROKEN, f"a file cannot be read or written: {error}")
    code = choice.exit_of(tried, build_only=options.build_only)
    lacking = choice.reason_of(bench.budgets, tried, quick=options.quick, build_only=options.build_only)
    return _outcome(bench, options, code, f"{winner.candidate} wins" if winner else lacking, tried, winner)


def _outcome(
    bench: Bench,
    options: Options,
    code: Exit,
    reason: str,
    tried: tuple[Trial, ...] = (),
    winner: Winner | None = None,
) -> Result:
    return Result(
        name=bench.name,
        exit=int(code),
        winner=winner,
        candidates=tried,
        budgets=bench.budgets,
        release=not (options.quick or options.build_only),
        reason=reason,
        stages=tuple(bench.stages),
        machine=bench.machine,
        tools=bench.tools,
        created=_now(bench),
    )


def _now(bench: Bench) -> str:
    return bench.clock.now().isoformat(timespec="seconds")


def _proven(
    bench: Bench, registry: Registry, options: Options, published: Manifest | None
) -> tuple[tuple[Trial, ...], Winner | None]:
    """Every candidate's trial, and the winner as published."""
    ground = prepare(bench)
    session = SessionOptions(target="cpu", threads=1)
    entrants, absent = _entered(ground, session) if published is None else ([_entrant(ground, registry, published)], [])
    if options.build_only:
        return (*(entrant.trial("built", "built, not measured") for entrant in entrants), *absent), None
    baseline = _baseline(ground, session)
    if not options.quick:
        _announce(ground, baseline, len(entrants))
    entrants = through(ground, entrants, lambda entrant: trials.screened(ground, entrant, baseline))
    champion = None
    if not options.quick:
        ground, entrants = with_noise(ground, entrants)
        current = _current(ground, registry)
        entrants = through(ground, entrants, lambda entrant: trials.measured(ground, entrant, baseline))
        entrants = through(ground, entrants, lambda entrant: finals.confirmed(ground, entrant, baseline, current))
        champion, entrants = elected(ground, entrants, finals.described if published is None else finals.loaded)
    reference = baseline.trial("not-measured", "the baseline of every comparison, never published")
    tried = [standing(bench, entrant, beaten=champion is not None and not entrant.loaded) for entrant in entrants]
    crowned = choice.crowned([reference, *tried, *absent], champion.name if champion else None, bench.outdone)
    if champion is None:
        return crowned, None
    return crowned, _winner(registry, champion, published or _published(ground, registry, champion, crowned))


def _announce(ground: Ground, baseline: Entrant, entrants: int) -> None:
    """Say what is to come, and about how long it takes where nothing is cached."""
    bench, rows = ground.bench, ground.reading.rows
    judged = sum(count for split, count in rows.items() if split != "calibration")
    ahead, seconds = estimate.steps(bench.budgets, entrants, judged, baseline.measurements["screen.p50_ms"].value)
    bench.progress.note(
        bench.name, f"ahead: {'; '.join(ahead)}. About {max(1, round(seconds / 60))} min, less what is cached"
    )


def _entrant(ground: Ground, registry: Registry, manifest: Manifest) -> Entrant:
    """A published version as an entrant, opened as it was measured."""
    precision, _, runtime = manifest.candidate.partition("@")
    path, artifact = registry.model_file(manifest), manifest.artifact
    subject = ground.subject(artifact.options, path)
    return Entrant(manifest.candidate, precision, runtime, subject, manifest.digest, artifact, settled=True)


def _winner(registry: Registry, champion: Entrant, manifest: Manifest) -> Winner:
    path = registry.manifest_path(manifest.model, manifest.version)
    return Winner(champion.name, champion.precision, champion.runtime, manifest.version, path)


def _current(ground: Ground, registry: Registry) -> Entrant | None:
    """The version that is served now, for `speed.max_slowdown`, where it takes the same inputs."""
    if ground.bench.budgets.speed.max_slowdown is None:
        return None
    served = _served(ground, registry)
    if served is None or served.signature.inputs != ground.signature.inputs:
        return None
    return _entrant(ground, registry, served)


def _served(ground: Ground, registry: Registry) -> Manifest | None:
    """The current version, where there is one; a damaged one is as good as none, since this run publishes the next."""
    name = ground.bench.name
    try:
        if registry.current(name) is None:
            return None
        manifest = registry.load(name)
        registry.model_file(manifest)
    except ArtifactError as error:
        ground.bench.progress.note(name, f"the current version counts as none: {error}")
        return None
    return manifest


def prepare(bench: Bench) -> Ground:
    """Read source and samples, and convert to the baseline graph.

    Raises:
        SourceError: The source or its samples cannot be used.
    """
    budgets = bench.budgets
    try:
        reading, splits = _read(bench)
        depends = (reading.source_digest, reading.data_digest, budgets.inputs, budgets.outputs, budgets.dims)
        taken = None
        if budgets.preprocess is not None and reading.rows:
            parts = (budgets.preprocess, reading.source_digest, reading.data_digest)
            raw = splits / f"{RAW}.npz"
            taken = bench.build(
                "code of preprocess", parts, preprocess_package.take, budgets.preprocess, bench.base, raw
            )
        folder = bench.build("export to ONNX", depends, exporting.convert, budgets, bench.base, splits)
    except CandidateError as error:
        raise SourceError(f"{budgets.source}: {error}") from None
    conversion = stored(folder, Conversion)
    exporting.check_latency_batch(budgets.latency.batch, conversion.signature.dims)
    bench.progress.note(
        bench.name, f"the ONNX graph answers as the source does, within {conversion.max_difference:.2g} on real samples"
    )
    baseline = folder / BASELINE
    return Ground(bench, reading, conversion.signature, splits, baseline, digest_of(baseline), taken)


def _read(bench: Bench) -> tuple[Reading, Path]:
    """Source and samples are read anew in every run: only then is it known whether they changed."""
    with tempfile.TemporaryDirectory(prefix="proveserve-samples-") as name:
        fresh = Path(name)
        with bench.progress.step(bench.name, "read source and samples"):
            reading = bench.isolated(read, bench.budgets, bench.base, fresh)

        def keep(folder: Path) -> None:
            for file in fresh.iterdir():
                shutil.copyfile(file, folder / file.name)

        return reading, bench.cache.folder("samples", key_of(reading.data_digest, PART_ROWS), keep)


def _baseline(ground: Ground, session: SessionOptions) -> Entrant:
    entrant = trials.source(ground, session)
    try:
        return trials.screened(ground, entrant, entrant)
    except CandidateError as error:
        raise SourceError(f"{ground.bench.budgets.source}: the source model itself {error}") from None


def _entered(ground: Ground, session: SessionOptions) -> tuple[list[Entrant], list[Trial]]:
    """Build every cell that applies; the others, with their reasons, are trials already."""
    entrants, absent = [], []
    for cell in candidate_specs.grid(ground.bench.budgets, ground.reading.rows, ground.bench.providers):
        if cell.reason:
            absent.append(Trial(cell.name, cell.precision, cell.runtime, "n/a", cell.reason))
            continue
        try:
            options = SessionOptions(cell.target, session.threads, candidate_specs.disabled_optimizers(cell))
            entrant = trials.enter(ground, cell, options)
            if cell.engine:
                absent.append(entrant.trial("built", _ENGINE))
            else:
                entrants.append(entrant)
        except CandidateError as error:
            absent.append(Trial(cell.name, cell.precision, cell.runtime, "failed", str(error)))
            ground.bench.progress.note(ground.bench.name, f"{cell.name} failed: {error}")
    return entrants, absent


def _published(ground: Ground, registry: Registry, champion: Entrant, crowned: tuple[Trial, ...]) -> Manifest:
    """Publish the champion, unless the current version is this very answer to these very budgets."""
    manifest = _manifest(ground, registry, champion, crowned)
    served = _served(ground, registry)
    if served is not None and _same(served, manifest):
        return served
    manifest = registry.publish(manifest)
    ground.bench.progress.note(manifest.model, f"published version {manifest.version}")
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


def _manifest(ground: Ground, registry: Registry, champion: Entrant, crowned: tuple[Trial, ...]) -> Manifest:
    bench, laid_out = ground.bench, finals.layouts(ground, champion)
    answered = finals.golden_answers(ground, champion)
    recorded = stored(answered, golden.Recorded)
    return Manifest(
        schema=1,
        model=bench.name,
        version=0,
        created=_now(bench),
        candidate=champion.name,
        artifact=_stored_artifact(registry, champion),
        signature=ground.signature,
        budgets=bench.budgets,
        verdicts=tuple(champion.verdicts.values()),
        curve=champion.curve,
        trials=crowned,
        golden=Golden(
            registry.put(answered / golden.GOLDEN, golden.GOLDEN), recorded.count, recorded.atol, recorded.rtol
        ),
        source_digest=ground.reading.source_digest,
        data_digest=ground.reading.data_digest,
        tools=bench.tools,
        machine=bench.machine,
        online=operating.online(laid_out, champion.subject.options.threads),
        bulk=operating.bulk(laid_out),
        preprocessing=_preprocessing(ground, registry),
    )


def _preprocessing(ground: Ground, registry: Registry) -> Preprocessing | None:
    spec = ground.bench.budgets.preprocess
    if spec is None or ground.portable is None:
        return None
    return preprocess_package.published(
        spec, stored(ground.portable, preprocess_package.Taken), ground.portable, registry
    )


def _stored_artifact(registry: Registry, champion: Entrant) -> Artifact:
    if champion.artifact is None or champion.folder is None:
        raise CandidateError(f"{champion.name} has no files to publish")
    files = tuple(registry.put(champion.folder / blob.name, blob.name) for blob in champion.artifact.files)
    return msgspec.structs.replace(champion.artifact, files=files)
