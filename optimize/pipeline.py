"""The story of an export, in order: read, convert, try every candidate, choose, publish."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime

from optimize import budgets as budgeting
from optimize import candidates, estimate, finals, portable, selection, trials
from optimize import export as exporting
from optimize.bench import Bench, Progress, Silent, stored
from optimize.cache import Cache, key_of
from optimize.errors import ArtifactError, CandidateError, Exit, ProveserveError, SourceError
from optimize.evidence import comparison
from optimize.export import BASELINE, Conversion, Reading
from optimize.isolation import DEFAULT_TIMEOUT_S, Isolated
from optimize.machine import describe, tools
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
from optimize.trials import Entrant, Ground
from optimize.validate.accuracy import SEED

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


def export(budgets_path: Path, options: Options, progress: Progress | None = None) -> list[Result]:
    """Export every asked-for model of a budgets file, each independently of the others.

    Raises:
        UserError: The budgets file cannot be used, or a model that was asked for is not in it.
    """
    registry, benches = _benches(budgets_path, options, progress)
    return [_exported(bench, registry, options) for bench in benches]


def validate(
    budgets_path: Path, options: Options, version: int | None, progress: Progress | None = None
) -> list[Result]:
    """Judge a published version of each asked-for model (the current one by default) again, on this machine.

    The judgement is kept beside the version's manifest. A model without any version is exported, from what was built before.

    Raises:
        UserError: The budgets file cannot be used, or a model that was asked for is not in it.
    """
    registry, benches = _benches(budgets_path, options, progress)
    return [_validated(bench, registry, options, version) for bench in benches]


def _benches(budgets_path: Path, options: Options, progress: Progress | None = None) -> tuple[Registry, list[Bench]]:
    budgets = budgeting.load(budgets_path)
    names = budgeting.chosen(budgets, options.models, budgets_path)
    registry = Registry(location(budgets_path, budgets))
    registry.check()
    cache = Cache(registry.scratch, reuse=options.reuse)
    isolated, machine, versions = Isolated(options.timeout_s, options.memory_mb), describe(), tools()
    base, shown = budgets_path.parent.absolute(), progress or Silent()
    return registry, [
        Bench(name, budgets.models[name], base, cache, isolated, machine, versions, shown) for name in names
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
    code = selection.exit_of(tried, build_only=options.build_only)
    lacking = selection.reason_of(bench.budgets, tried, quick=options.quick, build_only=options.build_only)
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
        created=_now(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
    entrants = _through(ground, entrants, lambda entrant: trials.screened(ground, entrant, baseline))
    champion = None
    if not options.quick:
        ground, entrants = _with_noise(ground, entrants)
        current = _current(ground, registry)
        entrants = _through(ground, entrants, lambda entrant: trials.measured(ground, entrant, baseline))
        entrants = _through(ground, entrants, lambda entrant: finals.confirmed(ground, entrant, baseline, current))
        champion, entrants = _elected(ground, entrants, finals.described if published is None else finals.loaded)
    reference = baseline.trial("not-measured", "the baseline of every comparison, never published")
    tried = [_trial(bench, entrant, beaten=champion is not None and not entrant.loaded) for entrant in entrants]
    crowned = selection.crowned([reference, *tried, *absent], champion.name if champion else None, bench.outdone)
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
    subject = ground.bench.subject(artifact.options, path)
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


def _elected(
    ground: Ground, entrants: list[Entrant], last: Callable[[Ground, Entrant], Entrant]
) -> tuple[Entrant | None, list[Entrant]]:
    """The best that also comes through the last stage: a load test takes minutes, so it is asked of the best, then of the next."""
    while True:
        champion, entrants = _champion(ground, entrants)
        if champion is None:
            return None, entrants
        (tested,) = _through(ground, [champion], lambda entrant: last(ground, entrant))
        entrants = [tested if entrant.name == tested.name else entrant for entrant in entrants]
        if _trial(ground.bench, tested).status == "qualified":
            return tested, entrants


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
            raw = splits / f"{exporting.RAW}.npz"
            taken = bench.build("code of preprocess", parts, portable.take, budgets.preprocess, bench.base, raw)
        folder = bench.build("export to ONNX", depends, exporting.convert, budgets, bench.base, splits)
    except CandidateError as error:
        raise SourceError(f"{budgets.source}: {error}") from None
    conversion = stored(folder, Conversion)
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
            reading = bench.isolated(exporting.read, bench.budgets, bench.base, fresh)

        def keep(folder: Path) -> None:
            for file in fresh.iterdir():
                shutil.copyfile(file, folder / file.name)

        return reading, bench.cache.folder("samples", key_of(reading.data_digest, exporting.PART_ROWS), keep)


def _baseline(ground: Ground, session: SessionOptions) -> Entrant:
    entrant = trials.source(ground, session)
    try:
        return trials.screened(ground, entrant, entrant)
    except CandidateError as error:
        raise SourceError(f"{ground.bench.budgets.source}: the source model itself {error}") from None


def _entered(ground: Ground, session: SessionOptions) -> tuple[list[Entrant], list[Trial]]:
    """Build every cell that applies; the others, with their reasons, are trials already."""
    entrants, absent = [], []
    providers = tuple(onnxruntime.get_available_providers())
    for cell in candidates.grid(ground.bench.budgets, ground.reading.rows, providers):
        if cell.reason:
            absent.append(Trial(cell.name, cell.precision, cell.runtime, "n/a", cell.reason))
            continue
        try:
            options = SessionOptions(cell.target, session.threads, candidates.disabled_optimizers(cell))
            entrant = trials.enter(ground, cell, options)
            if cell.engine:
                absent.append(entrant.trial("built", _ENGINE))
            else:
                entrants.append(entrant)
        except CandidateError as error:
            absent.append(Trial(cell.name, cell.precision, cell.runtime, "failed", str(error)))
            ground.bench.progress.note(ground.bench.name, f"{cell.name} failed: {error}")
    return entrants, absent


def _through(ground: Ground, entrants: Sequence[Entrant], stage: Callable[[Entrant], Entrant]) -> list[Entrant]:
    """Take every entrant that is still in through a stage; one that breaks costs only itself."""
    passed = []
    for entrant in entrants:
        if entrant.out:
            passed.append(entrant)
            continue
        try:
            moved = stage(entrant)
        except CandidateError as error:
            moved = msgspec.structs.replace(entrant, failed=str(error))
        if moved.out:
            ground.bench.progress.note(ground.bench.name, f"{moved.name} is out: {_trial(ground.bench, moved).reason}")
        passed.append(moved)
    return passed


def _trial(bench: Bench, entrant: Entrant, *, beaten: bool = False) -> Trial:
    trial = entrant.trial()
    if trial.status in ("failed", "screened-out"):
        return trial
    return (selection.beaten if beaten else selection.judged)(bench.budgets, trial)


def _with_noise(ground: Ground, entrants: Sequence[Entrant]) -> tuple[Ground, list[Entrant]]:
    """The machine's own noise, from the simplest candidate timed against itself; without latency budgets nobody asks.

    Whoever cannot be timed is out, and the next one tells the noise.
    """
    budget = ground.bench.budgets.latency
    if budget.p50_ms is None and budget.p99_ms is None:
        return ground, list(entrants)
    noises: list[float] = []

    def timed(entrant: Entrant) -> Entrant:
        if not noises:
            found = finals.duel(ground, "the machine's own noise (A/A)", entrant, entrant, budget.batch)
            a_ms, b_ms = ([np.array(block) for block in blocks] for blocks in (found.a_ms, found.b_ms))
            noises.append(comparison.machine_noise(a_ms, b_ms, seed=SEED))
        return entrant

    entrants = _through(ground, entrants, timed)
    return msgspec.structs.replace(ground, noise=noises[0] if noises else 0.0), entrants


class _UntimedError(Exception):
    """Two candidates that broke when they were timed side by side."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(names)
        self.names = names


def _champion(
    ground: Ground, entrants: list[Entrant], tied: frozenset[frozenset[str]] = frozenset()
) -> tuple[Entrant | None, list[Entrant]]:
    """The best of those that can be timed, and everyone as they stand then.

    Two that break side by side are timed alone. Who breaks again is out; where neither does, the pair is `tied`.
    """
    try:
        return _best(ground, entrants, tied), entrants
    except _UntimedError as pair:
        names, batch = pair.names, ground.bench.budgets.latency.batch

    def alone(entrant: Entrant) -> Entrant:
        if entrant.name in names:
            finals.duel(ground, f"{entrant.name}: timed alone", entrant, entrant, batch)
        return entrant

    return _champion(ground, _through(ground, entrants, alone), tied | {names})


def _best(ground: Ground, entrants: Sequence[Entrant], tied: frozenset[frozenset[str]]) -> Entrant | None:
    """The best of those that keep every budget measured so far; a tie goes to the simpler."""
    by_name = {entrant.name: entrant for entrant in entrants}
    tried = [
        selection.judged(ground.bench.budgets, entrant.trial(), () if entrant.loaded else ("throughput",))
        for entrant in entrants
        if not entrant.out
    ]
    ordered = selection.in_order_of_simplicity(tried)
    champion = ordered[0] if ordered else None
    for challenger in ordered[1:]:
        if champion is None:
            break
        beaten, how = _beats(ground, by_name, challenger, champion, tied)
        ground.bench.outdone[(champion if beaten else challenger).name] = how
        champion = challenger if beaten else champion
    return by_name[champion.name] if champion else None


def _beats(
    ground: Ground,
    entrants: dict[str, Entrant],
    challenger: Trial,
    champion: Trial,
    tied: frozenset[frozenset[str]],
) -> tuple[bool, str]:
    """Whether a challenger is better for the objective by more than a tie, and the figures that say so."""
    budgets, names = ground.bench.budgets, frozenset((challenger.name, champion.name))
    if not selection.decided_by_timing(budgets):
        return selection.improves(budgets, challenger, champion), selection.compared(budgets, challenger, champion)
    a, b = entrants[challenger.name], entrants[champion.name]
    if names in tied:
        return False, f"{a.name} against {b.name}: a tie, since they break when they are timed side by side"
    batch = budgets.latency.batch if budgets.objective == "latency" else None
    try:
        found = finals.duel(ground, f"{a.name} against {b.name}", a, b, batch)
    except CandidateError as error:
        ground.bench.progress.note(ground.bench.name, f"{a.name} against {b.name}: {error}")
        raise _UntimedError(names) from error
    a_ms, b_ms = _ms_per_row(found.a_ms, found.a_rows), _ms_per_row(found.b_ms, found.b_rows)
    compared = comparison.faster(a_ms, b_ms, seed=SEED)
    how = f"{a.name} against {b.name}: {compared.outcome}, {compared.evidence}"
    ground.bench.progress.note(ground.bench.name, how)
    return compared.outcome == "faster", how


def _ms_per_row(blocks: list[list[float]], rows: int) -> list[npt.NDArray[np.float64]]:
    return [np.array(block) / rows for block in blocks]


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
        created=_now(),
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
    return portable.published(spec, stored(ground.portable, portable.Taken), ground.portable, registry)


def _stored_artifact(registry: Registry, champion: Entrant) -> Artifact:
    if champion.artifact is None or champion.folder is None:
        raise CandidateError(f"{champion.name} has no files to publish")
    files = tuple(registry.put(champion.folder / blob.name, blob.name) for blob in champion.artifact.files)
    return msgspec.structs.replace(champion.artifact, files=files)
