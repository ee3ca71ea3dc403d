"""Read a model's source and samples, and convert the source to ONNX."""

import shutil
import tempfile
from pathlib import Path

import msgspec

from optimize.budgets import ModelBudgets
from optimize.convert import baseline
from optimize.convert.candidate_specs import SOURCE
from optimize.errors import CandidateError, SourceError
from optimize.execution.keys import DigestedPath, key_of
from optimize.execution.stage_runner import StageRunner, stored
from optimize.manifest import SessionOptions, digest_of
from optimize.source import loading, preprocess_package
from optimize.source.loading import RAW, Source
from optimize.source.model_ref import ModelRef
from optimize.tournament import stages
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament


def prepare(runner: StageRunner, serving_modules: tuple[str, ...]) -> Tournament:
    """The tournament before any candidate has entered.

    Raises:
        SourceError: The source or its samples cannot be used.
    """
    budgets = runner.budgets
    runner.progress.phase(runner.name, "read")
    try:
        source, samples, digests = _read(runner)
        runner.progress.phase(runner.name, "convert")
        preprocess = _preprocess(runner, source, DigestedPath(samples / f"{RAW}.npz", digests.get(RAW, "")))
        folder = _converted(runner, source, samples)
    except CandidateError as error:
        raise SourceError(f"{budgets.source}: {error}") from None
    conversion = stored(folder, baseline.Conversion)
    baseline.check_latency_batch(budgets.latency.batch, conversion.signature.dims)
    difference = f"within {conversion.max_difference:.2g} on real samples"
    runner.progress.note(runner.name, f"the ONNX graph answers as the source does, {difference}")
    return Tournament(
        runner=runner,
        source=source,
        signature=conversion.signature,
        samples=samples,
        digests=digests,
        graph=_graph(folder),
        baseline=_baseline(runner, source),
        preprocess=preprocess,
        serving_modules=serving_modules,
    )


def _read(runner: StageRunner) -> tuple[Source, Path, dict[str, str]]:
    """Source and samples are read in every run, which is the only way to see whether they changed."""
    with tempfile.TemporaryDirectory(prefix="proveserve-samples-") as name:
        fresh = Path(name)
        with runner.progress.step(runner.name, "read source and samples"):
            source = runner.isolated(loading.read, runner.budgets, runner.base, fresh)
        digests = {file.stem: digest_of(file) for file in sorted(fresh.iterdir())}

        def keep(folder: Path) -> None:
            for file in fresh.iterdir():
                shutil.copyfile(file, folder / file.name)

        return source, runner.cache.folder("samples", key_of(digests), keep), digests


def _preprocess(runner: StageRunner, source: Source, raw: DigestedPath) -> Path | None:
    """Where the code of `preprocess` was copied to; None where there is none, or no samples to show what it does."""
    spec = runner.budgets.preprocess
    if spec is None or not source.rows:
        return None
    code = DigestedPath(runner.base, source.preprocess_digest)
    return runner.build("code of preprocess", preprocess_package.take, spec, code, raw)


def _converted(runner: StageRunner, source: Source, samples: Path) -> Path:
    budgets = runner.budgets
    # Only what converting depends on, so that another latency budget converts nothing again.
    wanted = ModelBudgets(budgets.source, inputs=budgets.inputs, outputs=budgets.outputs, dims=budgets.dims)
    return runner.build(
        "export to ONNX",
        baseline.convert,
        wanted,
        DigestedPath(runner.base, source.source_digest),
        DigestedPath(samples, source.data_digest),
    )


def _graph(folder: Path) -> DigestedPath:
    """The ONNX graph; its weights may lie in other files."""
    files = sorted(folder.glob(f"{baseline.BASELINE}*"))
    return DigestedPath(folder / baseline.BASELINE, key_of({file.name: digest_of(file) for file in files}))


def _baseline(runner: StageRunner, source: Source) -> Candidate:
    """The source model as a candidate: the baseline of every comparison, never published."""
    session = SessionOptions(target="cpu", threads=1)
    model_ref = ModelRef(runner.budgets, runner.base, session, digest=source.source_digest)
    return Candidate(f"{SOURCE}@{source.runtime}", SOURCE, source.runtime, model_ref)


def with_screened_baseline(tournament: Tournament) -> Tournament:
    """The tournament once the source model has shown that it runs.

    Raises:
        SourceError: It fails, hangs, or answers NaN.
    """
    try:
        screened = stages.screened(tournament, tournament.baseline)
    except CandidateError as error:
        raise SourceError(f"{tournament.budgets.source}: the source model itself {error}") from None
    return msgspec.structs.replace(tournament, baseline=screened)
