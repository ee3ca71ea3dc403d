"""One round: every candidate that is still in goes through one stage, and one that breaks loses only itself."""

from collections.abc import Callable, Sequence

import msgspec

from optimize.budgets import ModelBudgets
from optimize.errors import CandidateError
from optimize.manifest import CandidateResult
from optimize.tournament import choice
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament

Stage = Callable[[Tournament, Candidate], Candidate]


def through(tournament: Tournament, candidates: Sequence[Candidate], stage: Stage) -> list[Candidate]:
    """The candidates after a stage; those that are out already skip it."""
    return [candidate if candidate.out else _through(tournament, candidate, stage) for candidate in candidates]


def _through(tournament: Tournament, candidate: Candidate, stage: Stage) -> Candidate:
    try:
        moved = stage(tournament, candidate)
    except CandidateError as error:
        moved = msgspec.structs.replace(candidate, failed=str(error))
    if moved.out:
        tournament.note(f"{moved.name} is out: {result_of(tournament.budgets, moved).reason}")
    return moved


def result_of(budgets: ModelBudgets, candidate: Candidate, *, runner_up: bool = False) -> CandidateResult:
    """A candidate's result by its verdicts so far; a `runner_up` lost to another before its load test."""
    result = candidate.result()
    if result.status in ("failed", "screened-out"):
        return result
    return choice.judged_runner_up(budgets, result) if runner_up else choice.judged(budgets, result)
