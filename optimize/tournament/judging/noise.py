"""How much the machine's own timings differ."""

from collections.abc import Sequence

import msgspec
import numpy as np

from optimize.statistics import comparison
from optimize.tournament.candidate import Candidate
from optimize.tournament.judging.timing import time_interleaved
from optimize.tournament.rounds import through
from optimize.tournament.tournament import Tournament
from optimize.validate.accuracy import SEED


def with_noise(tournament: Tournament, candidates: Sequence[Candidate]) -> tuple[Tournament, list[Candidate]]:
    """The tournament with the noise of the first candidate timed against itself; only latency budgets need it.

    A candidate that cannot be timed is out, and the next one takes its place.
    """
    budget = tournament.budgets.latency
    if budget.p50_ms is None and budget.p99_ms is None:
        return tournament, list(candidates)
    noises: list[float] = []

    def timed(tournament: Tournament, candidate: Candidate) -> Candidate:
        if not noises:
            what = "the machine's own noise (A/A)"
            found = time_interleaved(tournament, what, candidate, candidate, budget.batch)
            a_ms, b_ms = ([np.array(block) for block in blocks] for blocks in (found.a_ms, found.b_ms))
            noises.append(comparison.machine_noise(a_ms, b_ms, seed=SEED))
        return candidate

    candidates = through(tournament, candidates, timed)
    return msgspec.structs.replace(tournament, noise=noises[0] if noises else 0.0), candidates
