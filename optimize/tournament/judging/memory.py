"""`memory.peak_mb`: the peak resident memory of a process that serves the artefact."""

from optimize.manifest import Measurement, Outcome, Verdict
from optimize.measure import memory
from optimize.source.loading import PROBE
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament

KEY = "memory.peak_mb"
PROCESSES = 3


def judge(tournament: Tournament, candidate: Candidate) -> Candidate:
    """The highest peak of three fresh processes.

    Raises:
        CandidateError: It hangs, dies, or fails at its largest shape.
    """
    limit = tournament.budgets.memory.peak_mb
    if limit is None or candidate.artifact is None:
        return candidate
    peaks = [_peak(tournament, candidate, process) for process in range(1, PROCESSES + 1)]
    top = max(peaks, key=lambda peak: peak.peak_mb)
    low, n = min(peak.peak_mb for peak in peaks), len(peaks)
    evidence = (
        f"{top.imports_mb:.0f} MB after imports, {top.load_mb:.0f} MB after loading, {top.peak_mb:.0f} MB at the peak;"
        f" highest of {n} processes"
    )
    outcome: Outcome = "PASS" if top.peak_mb <= limit else "FAIL"
    method = "VmHWM of a fresh process that imports what serving imports"
    return candidate.judged(Verdict(KEY, limit, top.peak_mb, low, top.peak_mb, n, outcome, evidence)).measured(
        Measurement(KEY, top.peak_mb, "MB", n, method, low, top.peak_mb)
    )


def _peak(tournament: Tournament, candidate: Candidate, process: int) -> memory.Peak:
    return tournament.runner.measured(
        f"{candidate.name}: memory {process}",
        memory.Peak,
        memory.measure,
        candidate.model_ref,
        tournament.signature,
        tournament.split(PROBE),
        tournament.serving_modules,
        repetition=str(process),
    )
