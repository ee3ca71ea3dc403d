"""Publish the winner, and look up the version that is served now."""

import msgspec

from optimize.errors import ArtifactError, CandidateError
from optimize.execution.stage_runner import stored
from optimize.manifest import Artifact, CandidateResult, Golden, Manifest, Preprocessing
from optimize.measure import golden, operating
from optimize.registry import Registry
from optimize.source import preprocess_package
from optimize.tournament import entry
from optimize.tournament.candidate import Candidate
from optimize.tournament.golden import record
from optimize.tournament.judging import load
from optimize.tournament.tournament import Tournament

# Two manifests that agree in these fields are the same answer to the same budgets.
_SAME_ANSWER = (
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


def publish(
    tournament: Tournament, registry: Registry, best: Candidate, candidates: tuple[CandidateResult, ...]
) -> Manifest:
    """Publish the best, unless the current version is the same answer to the same budgets.

    Raises:
        ArtifactError: The registry cannot be written.
    """
    manifest = _manifest(tournament, registry, best, candidates)
    current = _current(tournament, registry)
    if current is not None and all(getattr(current, name) == getattr(manifest, name) for name in _SAME_ANSWER):
        return current
    manifest = registry.publish(manifest)
    tournament.note(f"published version {manifest.version}")
    return manifest


def with_current(tournament: Tournament, registry: Registry) -> Tournament:
    """The tournament with the version that is served now, for `speed.max_slowdown`, where it takes the same inputs."""
    if tournament.budgets.speed.max_slowdown is None:
        return tournament
    manifest = _current(tournament, registry)
    if manifest is None or manifest.signature.inputs != tournament.signature.inputs:
        return tournament
    return msgspec.structs.replace(tournament, current=entry.published(tournament, registry, manifest))


def _current(tournament: Tournament, registry: Registry) -> Manifest | None:
    """The current version; a damaged one counts as none, since this run publishes the next."""
    name = tournament.runner.name
    try:
        if registry.current(name) is None:
            return None
        manifest = registry.load(name)
        registry.model_file(manifest)
    except ArtifactError as error:
        tournament.note(f"the current version counts as none: {error}")
        return None
    return manifest


def _manifest(
    tournament: Tournament, registry: Registry, best: Candidate, candidates: tuple[CandidateResult, ...]
) -> Manifest:
    runner, layouts = tournament.runner, load.layouts(tournament, best)
    return Manifest(
        schema=1,
        model=runner.name,
        version=0,
        created=runner.clock.now().isoformat(timespec="seconds"),
        candidate=best.name,
        artifact=_stored_artifact(registry, best),
        signature=tournament.signature,
        budgets=runner.budgets,
        verdicts=tuple(best.verdicts.values()),
        curve=best.curve,
        candidates=candidates,
        golden=_golden(tournament, registry, best),
        source_digest=tournament.source.source_digest,
        data_digest=tournament.source.data_digest,
        tools=runner.tools,
        machine=runner.machine,
        online=operating.online(layouts, best.threads),
        bulk=operating.bulk(layouts),
        preprocessing=_preprocessing(tournament, registry),
    )


def _golden(tournament: Tournament, registry: Registry, best: Candidate) -> Golden:
    folder = record(tournament, best)
    recorded = stored(folder, golden.Recorded)
    return Golden(registry.put(folder / golden.GOLDEN, golden.GOLDEN), recorded.count, recorded.atol, recorded.rtol)


def _preprocessing(tournament: Tournament, registry: Registry) -> Preprocessing | None:
    spec, folder = tournament.budgets.preprocess, tournament.preprocess
    if spec is None or folder is None:
        return None
    return preprocess_package.published(spec, stored(folder, preprocess_package.Taken), folder, registry)


def _stored_artifact(registry: Registry, best: Candidate) -> Artifact:
    if best.artifact is None or best.folder is None:
        raise CandidateError(f"{best.name} has no files to publish")
    files = tuple(registry.put(best.folder / blob.name, blob.name) for blob in best.artifact.files)
    return msgspec.structs.replace(best.artifact, files=files)
