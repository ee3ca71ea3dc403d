"""Who of the entrants wins: stages that cost only those who break at them, and comparisons of two side by side.

through      take everyone who is still in through a stage
with_noise   how much the machine's own timings differ
elected      the best that also comes through the last stage
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from optimize.errors import CandidateError
from optimize.execution.stage_runner import Bench
from optimize.manifest import Trial
from optimize.statistics import comparison
from optimize.tournament import choice, finals
from optimize.tournament.trials import Entrant, Ground
from optimize.validate.accuracy import SEED


def through(ground: Ground, entrants: Sequence[Entrant], stage: Callable[[Entrant], Entrant]) -> list[Entrant]:
    """Take every entrant that is still in through a stage; one that breaks costs only itself."""
    passed = []
    for entrant in entrants:
        if entrant.out:
            passed.append(entrant)
            continue
        try:
            moved = stage(entrant)
        except CandidateError as error:
            moved = msgspec.structs.replace(entrant, failed=str(error))
        if moved.out:
            ground.bench.progress.note(
                ground.bench.name, f"{moved.name} is out: {standing(ground.bench, moved).reason}"
            )
        passed.append(moved)
    return passed


def standing(bench: Bench, entrant: Entrant, *, beaten: bool = False) -> Trial:
    """An entrant's trial as its verdicts stand; a `beaten` one lost to another before its load test."""
    trial = entrant.trial()
    if trial.status in ("failed", "screened-out"):
        return trial
    return (choice.beaten if beaten else choice.judged)(bench.budgets, trial)


def with_noise(ground: Ground, entrants: Sequence[Entrant]) -> tuple[Ground, list[Entrant]]:
    """The machine's own noise, from the simplest candidate timed against itself; without latency budgets nobody asks.

    Whoever cannot be timed is out, and the next one tells the noise.
    """
    budget = ground.bench.budgets.latency
    if budget.p50_ms is None and budget.p99_ms is None:
        return ground, list(entrants)
    noises: list[float] = []

    def timed(entrant: Entrant) -> Entrant:
        if not noises:
            found = finals.duel(ground, "the machine's own noise (A/A)", entrant, entrant, budget.batch)
            a_ms, b_ms = ([np.array(block) for block in blocks] for blocks in (found.a_ms, found.b_ms))
            noises.append(comparison.machine_noise(a_ms, b_ms, seed=SEED))
        return entrant

    entrants = through(ground, entrants, timed)
    return msgspec.structs.replace(ground, noise=noises[0] if noises else 0.0), entrants


def elected(
    ground: Ground, entrants: list[Entrant], last: Callable[[Ground, Entrant], Entrant]
) -> tuple[Entrant | None, list[Entrant]]:
    """The best that also comes through the last stage: a load test takes minutes, so it is asked of the best, then of the next."""
    while True:
        champion, entrants = _champion(ground, entrants)
        if champion is None:
            return None, entrants
        (tested,) = through(ground, [champion], lambda entrant: last(ground, entrant))
        entrants = [tested if entrant.name == tested.name else entrant for entrant in entrants]
        if standing(ground.bench, tested).status == "qualified":
            return tested, entrants


class _UntimedError(Exception):
    """Two candidates that broke when they were timed side by side."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(names)
        self.names = names


def _champion(
    ground: Ground, entrants: list[Entrant], tied: frozenset[frozenset[str]] = frozenset()
) -> tuple[Entrant | None, list[Entrant]]:
    """The best of those that can be timed, and everyone as they stand then.

    Two that break side by side are timed alone. Who breaks again is out; where neither does, the pair is `tied`.
    """
    try:
        return _best(ground, entrants, tied), entrants
    except _UntimedError as pair:
        names, batch = pair.names, ground.bench.budgets.latency.batch

    def alone(entrant: Entrant) -> Entrant:
        if entrant.name in names:
            finals.duel(ground, f"{entrant.name}: timed alone", entrant, entrant, batch)
        return entrant

    return _champion(ground, through(ground, entrants, alone), tied | {names})


def _best(ground: Ground, entrants: Sequence[Entrant], tied: frozenset[frozenset[str]]) -> Entrant | None:
    """The best of those that keep every budget measured so far; a tie goes to the simpler."""
    by_name = {entrant.name: entrant for entrant in entrants}
    tried = [
        choice.judged(ground.bench.budgets, entrant.trial(), () if entrant.loaded else ("throughput",))
        for entrant in entrants
        if not entrant.out
    ]
    ordered = choice.in_order_of_simplicity(tried)
    champion = ordered[0] if ordered else None
    for challenger in ordered[1:]:
        if champion is None:
            break
        beaten, how = _beats(ground, by_name, challenger, champion, tied)
        ground.bench.outdone[(champion if beaten else challenger).name] = how
        champion = challenger if beaten else champion
    return by_name[champion.name] if champion else None


def _beats(
    ground: Ground,
    entrants: dict[str, Entrant],
    challenger: Trial,
    champion: Trial,
    tied: frozenset[frozenset[str]],
) -> tuple[bool, str]:
    """Whether a challenger is better for the objective by more than a tie, and the figures that say so."""
    budgets, names = ground.bench.budgets, frozenset((challenger.name, champion.name))
    if not choice.decided_by_timing(budgets):
        return choice.improves(budgets, challenger, champion), choice.compared(budgets, challenger, champion)
    a, b = entrants[challenger.name], entrants[champion.name]
    if names in tied:
        return False, f"{a.name} against {b.name}: a tie, since they break when they are timed side by side"
    batch = budgets.latency.batch if budgets.objective == "latency" else None
    try:
        found = finals.duel(ground, f"{a.name} against {b.name}", a, b, batch)
    except CandidateError as error:
        ground.bench.progress.note(ground.bench.name, f"{a.name} against {b.name}: {error}")
        raise _UntimedError(names) from error
    a_ms, b_ms = _ms_per_row(found.a_ms, found.a_rows), _ms_per_row(found.b_ms, found.b_rows)
    compared = comparison.faster(a_ms, b_ms, seed=SEED)
    how = f"{a.name} against {b.name}: {compared.outcome}, {compared.evidence}"
    ground.bench.progress.note(ground.bench.name, how)
    return compared.outcome == "faster", how


def _ms_per_row(blocks: list[list[float]], rows: int) -> list[npt.NDArray[np.float64]]:
    return [np.array(block) / rows for block in blocks]
