"""`size.mb`: the bytes of an artefact's files."""

from optimize.manifest import Measurement, Verdict, counted
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament

KEY = "size.mb"


def judge(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Megabytes of the files, exactly; the source model has none."""
    artifact, limit = candidate.artifact, tournament.budgets.size.mb
    if artifact is None:
        return candidate
    mb = artifact.size_bytes / 1e6
    candidate = candidate.measured(Measurement(KEY, mb, "MB", 1, "bytes of the artefact's files"))
    if limit is None:
        return candidate
    evidence = f"{artifact.size_bytes:,} bytes in {counted(len(artifact.files), 'file')}"
    return candidate.judged(Verdict(KEY, limit, mb, mb, mb, 0, "PASS" if mb <= limit else "FAIL", evidence))
