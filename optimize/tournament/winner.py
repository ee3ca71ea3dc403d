"""Who of the candidates wins: stages that cost only those who break at them, and comparisons of two side by side.

through      take everyone who is still in through a stage
with_noise   how much the machine's own timings differ
elected      the best that also comes through the last stage
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from optimize.errors import CandidateError
from optimize.execution.stage_runner import StageRunner
from optimize.manifest import CandidateResult
from optimize.statistics import comparison
from optimize.tournament import choice, finals
from optimize.tournament.trials import Candidate, Tournament
from optimize.validate.accuracy import SEED


def through(
    tournament: Tournament, candidates: Sequence[Candidate], stage: Callable[[Candidate], Candidate]
) -> list[Candidate]:
    """Take every candidate that is still in through a stage; one that breaks costs only itself."""
    passed = []
    for candidate in candidates:
        if candidate.out:
            passed.append(candidate)
            continue
        try:
            moved = stage(candidate)
        except CandidateError as error:
            moved = msgspec.structs.replace(candidate, failed=str(error))
        if moved.out:
            tournament.runner.progress.note(
                tournament.runner.name, f"{moved.name} is out: {standing(tournament.runner, moved).reason}"
            )
        passed.append(moved)
    return passed


def standing(runner: StageRunner, candidate: Candidate, *, beaten: bool = False) -> CandidateResult:
    """An candidate's result as its verdicts stand; a `beaten` one lost to another before its load test."""
    result = candidate.result()
    if result.status in ("failed", "screened-out"):
        return result
    return (choice.beaten if beaten else choice.judged)(runner.budgets, result)


def with_noise(tournament: Tournament, candidates: Sequence[Candidate]) -> tuple[Tournament, list[Candidate]]:
    """The machine's own noise, from the simplest candidate timed against itself; without latency budgets nobody asks.

    Whoever cannot be timed is out, and the next one tells the noise.
    """
    budget = tournament.runner.budgets.latency
    if budget.p50_ms is None and budget.p99_ms is None:
        return tournament, list(candidates)
    noises: list[float] = []

    def timed(candidate: Candidate) -> Candidate:
        if not noises:
            found = finals.time_interleaved(
                tournament, "the machine's own noise (A/A)", candidate, candidate, budget.batch
            )
            a_ms, b_ms = ([np.array(block) for block in blocks] for blocks in (found.a_ms, found.b_ms))
            noises.append(comparison.machine_noise(a_ms, b_ms, seed=SEED))
        return candidate

    candidates = through(tournament, candidates, timed)
    return msgspec.structs.replace(tournament, noise=noises[0] if noises else 0.0), candidates


def elected(
    tournament: Tournament, candidates: list[Candidate], last: Callable[[Tournament, Candidate], Candidate]
) -> tuple[Candidate | None, list[Candidate]]:
    """The best that also comes through the last stage: a load test takes minutes, so it is asked of the best, then of the next."""
    while True:
        best, candidates = _champion(tournament, candidates)
        if best is None:
            return None, candidates
        (tested,) = through(tournament, [best], lambda candidate: last(tournament, candidate))
        candidates = [tested if candidate.name == tested.name else candidate for candidate in candidates]
        if standing(tournament.runner, tested).status == "qualified":
            return tested, candidates


class _UntimedError(Exception):
    """Two candidates that broke when they were timed side by side."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(names)
        self.names = names


def _champion(
    tournament: Tournament, candidates: list[Candidate], tied: frozenset[frozenset[str]] = frozenset()
) -> tuple[Candidate | None, list[Candidate]]:
    """The best of those that can be timed, and everyone as they stand then.

    Two that break side by side are timed alone. Who breaks again is out; where neither does, the pair is `tied`.
    """
    try:
        return _best(tournament, candidates, tied), candidates
    except _UntimedError as pair:
        names, batch = pair.names, tournament.runner.budgets.latency.batch

    def alone(candidate: Candidate) -> Candidate:
        if candidate.name in names:
            finals.time_interleaved(tournament, f"{candidate.name}: timed alone", candidate, candidate, batch)
        return candidate

    return _champion(tournament, through(tournament, candidates, alone), tied | {names})


def _best(tournament: Tournament, candidates: Sequence[Candidate], tied: frozenset[frozenset[str]]) -> Candidate | None:
    """The best of those that keep every budget measured so far; a tie goes to the simpler."""
    by_name = {candidate.name: candidate for candidate in candidates}
    tried = [
        choice.judged(tournament.runner.budgets, candidate.result(), () if candidate.loaded else ("throughput",))
        for candidate in candidates
        if not candidate.out
    ]
    ordered = choice.in_order_of_simplicity(tried)
    best = ordered[0] if ordered else None
    for challenger in ordered[1:]:
        if best is None:
            break
        beaten, how = _beats(tournament, by_name, challenger, best, tied)
        tournament.runner.lost_to[(best if beaten else challenger).name] = how
        best = challenger if beaten else best
    return by_name[best.name] if best else None


def _beats(
    tournament: Tournament,
    candidates: dict[str, Candidate],
    challenger: CandidateResult,
    best: CandidateResult,
    tied: frozenset[frozenset[str]],
) -> tuple[bool, str]:
    """Whether a challenger is better for the objective by more than a tie, and the figures that say so."""
    budgets, names = tournament.runner.budgets, frozenset((challenger.name, best.name))
    if not choice.decided_by_timing(budgets):
        return choice.improves(budgets, challenger, best), choice.compared(budgets, challenger, best)
    a, b = candidates[challenger.name], candidates[best.name]
    if names in tied:
        return False, f"{a.name} against {b.name}: a tie, since they break when they are timed side by side"
    batch = budgets.latency.batch if budgets.objective == "latency" else None
    try:
        found = finals.time_interleaved(tournament, f"{a.name} against {b.name}", a, b, batch)
    except CandidateError as error:
        tournament.runner.progress.note(tournament.runner.name, f"{a.name} against {b.name}: {error}")
        raise _UntimedError(names) from error
    a_ms, b_ms = _ms_per_row(found.a_ms, found.a_rows), _ms_per_row(found.b_ms, found.b_rows)
    compared = comparison.faster(a_ms, b_ms, seed=SEED)
    how = f"{a.name} against {b.name}: {compared.outcome}, {compared.evidence}"
    tournament.runner.progress.note(tournament.runner.name, how)
    return compared.outcome == "faster", how


def _ms_per_row(blocks: list[list[float]], rows: int) -> list[npt.NDArray[np.float64]]:
    return [np.array(block) / rows for block in blocks]
