"""The golden answers of a candidate: inputs and answers that everything that loads it replays."""

from pathlib import Path

from optimize.measure import golden
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament


def record(tournament: Tournament, candidate: Candidate) -> Path:
    """The folder that holds them.

    Raises:
        CandidateError: It hangs or dies.
    """
    return tournament.runner.build(
        f"{candidate.name}: golden answers",
        golden.record,
        candidate.model_ref,
        tournament.signature,
        tournament.split("confirmation"),
    )
