"""How a candidate enters: built from a spec, or published already."""

from typing import Literal

from optimize.convert import candidate_build
from optimize.convert.candidate_build import BuiltCandidate
from optimize.convert.candidate_specs import CandidateSpec, candidate_specs, disabled_optimizers
from optimize.errors import CandidateError
from optimize.execution.stage_runner import stored
from optimize.manifest import Artifact, Blob, CandidateResult, Manifest, SessionOptions, counted, digest_of
from optimize.registry import Registry
from optimize.tournament.candidate import Candidate, digest_of_files
from optimize.tournament.tournament import Tournament

_ENGINE = (
    "built, not measured: an engine runs only on the GPU that it was built for, so here it can neither pass nor win"
)


def build_all(tournament: Tournament) -> tuple[list[Candidate], list[CandidateResult]]:
    """Build every spec that applies; those that cannot compete are results already."""
    candidates, absent = [], []
    for spec in candidate_specs(tournament.budgets, tournament.source.rows, tournament.runner.providers):
        if spec.reason:
            absent.append(CandidateResult(spec.name, spec.precision, spec.runtime, "n/a", spec.reason))
            continue
        try:
            candidate = _build(tournament, spec)
        except CandidateError as error:
            absent.append(CandidateResult(spec.name, spec.precision, spec.runtime, "failed", str(error)))
            tournament.note(f"{spec.name} failed: {error}")
            continue
        if spec.engine:
            absent.append(candidate.result("built", _ENGINE))
        else:
            candidates.append(candidate)
    return candidates, absent


def _build(tournament: Tournament, spec: CandidateSpec) -> Candidate:
    folder = tournament.runner.build(
        f"{spec.name}: build",
        candidate_build.build,
        spec,
        tournament.graph,
        tournament.split("calibration"),
        tournament.signature,
        tournament.budgets.compute_capabilities if spec.engine else (),
    )
    record = stored(folder, BuiltCandidate)
    options = SessionOptions(spec.target, disabled_optimizers=disabled_optimizers(spec))
    files = tuple(Blob(name, digest_of(folder / name), (folder / name).stat().st_size) for name in record.files)
    changed = (f"{counted(record.changed, 'node')} changed precision",) if record.changed else ()
    return Candidate(
        name=spec.name,
        precision=spec.precision,
        runtime=spec.runtime,
        model_ref=tournament.model_ref(options, folder / record.files[0], digest_of_files(files)),
        artifact=Artifact(_format(spec), files, options),
        folder=folder,
        notes=changed + record.notes,
    )


def _format(spec: CandidateSpec) -> Literal["onnx", "tensorrt", "tensorrt-rtx"]:
    return spec.target if spec.target in ("tensorrt", "tensorrt-rtx") else "onnx"


def published(tournament: Tournament, registry: Registry, manifest: Manifest) -> Candidate:
    """A published version, opened as it was measured.

    Raises:
        ArtifactError: Its model file is missing or damaged.
    """
    precision, _, runtime = manifest.candidate.partition("@")
    artifact = manifest.artifact
    model_ref = tournament.model_ref(artifact.options, registry.model_file(manifest), digest_of_files(artifact.files))
    return Candidate(manifest.candidate, precision, runtime, model_ref, artifact, published=True)
