"""Two candidates timed interleaved in one process: what speed, ties and the machine's own noise are judged by."""

from optimize.measure import interleaved
from optimize.measure.interleaved import InterleavedTiming
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament


def time_interleaved(
    tournament: Tournament, what: str, a: Candidate, b: Candidate, batch: int | None, repetition: str = ""
) -> InterleavedTiming:
    """Time two candidates at `batch` rows per call, or each at its own best batch.

    Raises:
        CandidateError: One of them hangs or dies.
    """
    return tournament.runner.measured(
        what,
        InterleavedTiming,
        interleaved.time_interleaved,
        a.model_ref,
        b.model_ref,
        tournament.signature,
        tournament.split("selection"),
        batch,
        repetition=repetition,
    )
