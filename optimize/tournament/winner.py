"""The best of the candidates that meet every budget, by timing two at a time where the objective is speed."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from optimize.budgets import ModelBudgets
from optimize.errors import CandidateError
from optimize.manifest import CandidateResult
from optimize.statistics import comparison
from optimize.tournament import choice
from optimize.tournament.candidate import Candidate
from optimize.tournament.judging.timing import time_interleaved
from optimize.tournament.rounds import Stage, result_of, through
from optimize.tournament.tournament import Tournament
from optimize.validate.accuracy import SEED

Pair = frozenset[str]


class Choice(Struct, frozen=True):
    """The best candidate, if there is one, all of them as they stand after the comparisons, and how each loser lost."""

    best: Candidate | None
    candidates: list[Candidate]
    lost: Mapping[str, str] = {}

    @property
    def name(self) -> str | None:
        """The best candidate's name."""
        return self.best.name if self.best else None

    def results(self, budgets: ModelBudgets) -> list[CandidateResult]:
        """Every candidate's result; with a winner, those without a load test are runners-up."""
        found = self.best is not None
        return [result_of(budgets, one, runner_up=found and not one.load_tested) for one in self.candidates]


def choose(tournament: Tournament, candidates: list[Candidate], last: Stage) -> Choice:
    """The best that also comes through the last stage: a load test takes minutes, so only the best takes it, then the next."""
    lost: dict[str, str] = {}
    while True:
        found = _compare_all(tournament, candidates)
        candidates, best = found.candidates, found.best
        lost |= found.lost
        if best is None:
            return Choice(None, candidates, lost)
        (tested,) = through(tournament, [best], last)
        candidates = [tested if candidate.name == tested.name else candidate for candidate in candidates]
        if result_of(tournament.budgets, tested).status == "qualified":
            return Choice(tested, candidates, lost)


class _ClashError(Exception):
    """Two candidates that failed when they were timed together."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        self.pair = pair


def _compare_all(tournament: Tournament, candidates: list[Candidate], clashes: frozenset[Pair] = frozenset()) -> Choice:
    """The best of those that can be timed.

    Two that fail together are timed alone. One that fails again is out; where neither does, the pair is a tie from then on.
    """
    try:
        best, lost = _best(tournament, candidates, clashes)
    except _ClashError as clash:
        pair, batch = clash.pair, tournament.budgets.latency.batch
    else:
        return Choice(best, candidates, lost)

    def alone(tournament: Tournament, candidate: Candidate) -> Candidate:
        if candidate.name in pair:
            what = f"{candidate.name}: timed alone"
            time_interleaved(tournament, what, candidate, candidate, batch, repetition="alone")
        return candidate

    return _compare_all(tournament, through(tournament, candidates, alone), clashes | {pair})


def _best(
    tournament: Tournament, candidates: Sequence[Candidate], clashes: frozenset[Pair]
) -> tuple[Candidate | None, dict[str, str]]:
    """The best of those that meet every budget measured so far, and how the others lost; a tie goes to the simpler."""
    by_name = {candidate.name: candidate for candidate in candidates}
    results = [
        choice.judged(tournament.budgets, candidate.result(), () if candidate.load_tested else ("throughput",))
        for candidate in candidates
        if not candidate.out
    ]
    qualified, lost = choice.in_order_of_simplicity(results), dict[str, str]()
    if not qualified:
        return None, lost
    best = qualified[0]
    for challenger in qualified[1:]:
        better, how = _compare(tournament, by_name, challenger, best, clashes)
        lost[(best if better else challenger).name] = how
        best = challenger if better else best
    return by_name[best.name], lost


def _compare(
    tournament: Tournament,
    by_name: Mapping[str, Candidate],
    challenger: CandidateResult,
    best: CandidateResult,
    clashes: frozenset[Pair],
) -> tuple[bool, str]:
    """Whether a challenger is better for the objective by more than a tie, and the figures that show it."""
    budgets = tournament.budgets
    if not choice.decided_by_timing(budgets):
        return choice.improves(budgets, challenger, best), choice.compared(budgets, challenger, best)
    if frozenset((challenger.name, best.name)) in clashes:
        how = "a tie, since they break when they are timed side by side"
        return False, f"{challenger.name} against {best.name}: {how}"
    return _time(tournament, by_name[challenger.name], by_name[best.name])


def _time(tournament: Tournament, challenger: Candidate, best: Candidate) -> tuple[bool, str]:
    budgets, names = tournament.budgets, f"{challenger.name} against {best.name}"
    batch = budgets.latency.batch if budgets.objective == "latency" else None
    try:
        found = time_interleaved(tournament, names, challenger, best, batch)
    except CandidateError as error:
        tournament.note(f"{names}: {error}")
        raise _ClashError(frozenset((challenger.name, best.name))) from error
    a_ms, b_ms = _ms_per_row(found.a_ms, found.a_rows), _ms_per_row(found.b_ms, found.b_rows)
    compared = comparison.faster(a_ms, b_ms, seed=SEED)
    how = f"{names}: {compared.outcome}, {compared.evidence}"
    tournament.note(how)
    return compared.outcome == "faster", how


def _ms_per_row(blocks: list[list[float]], rows: int) -> list[npt.NDArray[np.float64]]:
    return [np.array(block) / rows for block in blocks]
