"""Pure: which candidate wins, or why none does.

A candidate has to meet every budget first; only then does the objective choose.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from optimize.budgets import Limit, ModelBudgets, limits
from optimize.errors import Exit
from optimize.manifest import CandidateResult, Status, Verdict, about, counted

MIN_GAIN = 0.03
"""How much better a candidate must be to beat a simpler one."""

_SIMPLEST_FIRST = ("fp32", "fp16", "int8-dynamic", "int8-static")
# Objectives that have a measurement; the others are decided by timing two candidates side by side.
_MEASURED = {"memory": "memory.peak_mb", "size": "size.mb", "cost": "cost.per_million"}
_SEVERITY = (Exit.USAGE, Exit.BROKEN, Exit.OVER_BUDGET, Exit.INCONCLUSIVE, Exit.OK)


def judged(budgets: ModelBudgets, candidate: CandidateResult, still_to_come: tuple[str, ...] = ()) -> CandidateResult:
    """The candidate with the status that its verdicts give it: a budget that was not measured is never met.

    `still_to_come` names sections that are measured only after the choice among those that qualify so far.
    """
    declared = [limit for limit in limits(budgets) if limit.key.split(".")[0] not in still_to_come]
    by_key = {verdict.budget: verdict for verdict in candidate.verdicts}
    failed = [verdict for verdict in candidate.verdicts if verdict.verdict == "FAIL"]
    open_ones = [limit for limit in declared if limit.key not in by_key or by_key[limit.key].verdict == "INCONCLUSIVE"]
    if failed:
        return _with(
            candidate, "over-budget", "; ".join(_lost(verdict, _better(declared, verdict)) for verdict in failed)
        )
    if open_ones:
        return _with(candidate, "inconclusive", "; ".join(_open(limit, by_key.get(limit.key)) for limit in open_ones))
    return _with(candidate, "qualified", "keeps every budget")


def judged_runner_up(budgets: ModelBudgets, candidate: CandidateResult) -> CandidateResult:
    """The judged candidate, where another was better before its load test, which only the best takes.

    Its status stays, since a budget that was not measured is never met; the reason says where that is all that is missing.
    """
    found = judged(budgets, candidate)
    if found.status != "inconclusive" or judged(budgets, candidate, ("throughput",)).status != "qualified":
        return found
    return _with(found, found.status, "qualified so far; throughput is measured for the best only")


def _with(candidate: CandidateResult, status: Status, reason: str) -> CandidateResult:
    return msgspec.structs.replace(candidate, status=status, reason=reason)


def _better(declared: Sequence[Limit], verdict: Verdict) -> str:
    return next((limit.better for limit in declared if limit.key == verdict.budget), "lower")


def _lost(verdict: Verdict, better: str) -> str:
    if verdict.observed is None:
        return f"{verdict.budget}: {verdict.evidence}"
    side = "over" if better == "lower" else "under"
    by = abs(verdict.observed - verdict.limit)
    return f"{verdict.budget} is {verdict.observed:.4g}, {by:.3g} {side} its limit of {verdict.limit:g}"


def _open(limit: Limit, verdict: Verdict | None) -> str:
    if verdict is None:
        return f"{limit.key} was not measured"
    more = f"{about(verdict.needed)} samples would settle it" if verdict.needed else "no number of samples can be named"
    return f"{limit.key} is undecided after {verdict.n:,} samples: {more}"


def in_order_of_simplicity(candidates: Iterable[CandidateResult]) -> list[CandidateResult]:
    """The qualified candidates, simplest precision first; the source is a baseline and never among them."""
    qualified = [
        candidate
        for candidate in candidates
        if candidate.status == "qualified" and candidate.precision in _SIMPLEST_FIRST
    ]
    return sorted(qualified, key=lambda candidate: (_SIMPLEST_FIRST.index(candidate.precision), candidate.runtime))


def decided_by_timing(budgets: ModelBudgets) -> bool:
    """Whether the objective is settled by timing two candidates side by side."""
    return budgets.objective not in _MEASURED


def improves(budgets: ModelBudgets, challenger: CandidateResult, best: CandidateResult) -> bool:
    """Whether a challenger is better by more than 3 % in the objective's measurement; lower is better in all of them."""
    key = _MEASURED[budgets.objective]
    ours, theirs = challenger.measured(key), best.measured(key)
    return ours is not None and theirs is not None and ours.value * (1 + MIN_GAIN) < theirs.value


def compared(budgets: ModelBudgets, challenger: CandidateResult, best: CandidateResult) -> str:
    """The two figures that :func:`improves` compares, in words."""
    key = _MEASURED[budgets.objective]
    figures = [found.value for candidate in (challenger, best) if (found := candidate.measured(key))]
    shown = " and ".join(f"{figure:.4g}" for figure in figures) or "not measured"
    return f"{challenger.name} against {best.name}: {key} of {shown}; a difference must clear {MIN_GAIN:.0%}"


def with_winner(
    candidates: Iterable[CandidateResult], winner: str | None, lost: Mapping[str, str] = MappingProxyType({})
) -> tuple[CandidateResult, ...]:
    """The candidates with the winner marked; `lost` says how others that might have won lost the comparison."""
    return tuple(_marked(candidate, winner, lost.get(candidate.name)) for candidate in candidates)


def _marked(candidate: CandidateResult, winner: str | None, how: str | None) -> CandidateResult:
    if candidate.name == winner:
        return _with(candidate, "winner", "keeps every budget and is best for the objective")
    if winner is not None and how is not None and candidate.status in ("qualified", "inconclusive"):
        return _with(candidate, candidate.status, f"does not win: {how}; {candidate.reason}")
    return candidate


def exit_of(candidates: Iterable[CandidateResult], *, build_only: bool = False) -> Exit:
    """One model's exit code: a winner, else a candidate that might yet win, else none within budget.

    Those that might yet win are the inconclusive ones, those that passed the screens of a quick run, and engines, which are built but
    not measured. Where every candidate failed, none is within budget. A run that only builds succeeds where it built something.
    """
    statuses = {candidate.status for candidate in candidates if candidate.precision in _SIMPLEST_FIRST}
    if "winner" in statuses or (build_only and "built" in statuses):
        return Exit.OK
    return Exit.INCONCLUSIVE if statuses & {"inconclusive", "qualified", "built"} else Exit.OVER_BUDGET


def worst(exits: Iterable[int]) -> Exit:
    """The exit code of a run over several models: 2 over 4 over 1 over 3 over 0."""
    return min((Exit(code) for code in exits), key=_SEVERITY.index, default=Exit.OK)


def reason_of(
    budgets: ModelBudgets, candidates: Sequence[CandidateResult], *, quick: bool = False, build_only: bool = False
) -> str:
    """Why a model has no winner, in one sentence."""
    statuses = [candidate.status for candidate in candidates if candidate.precision in _SIMPLEST_FIRST]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    if build_only:
        return f"{counts}: nothing was judged, export without --build-only to choose the winner"
    if quick and {"qualified", "inconclusive"} & set(statuses):
        return f"{counts}, by the screens alone: export without --quick to choose the winner"
    declared = limits(budgets)
    kept = "its one budget" if len(declared) == 1 else f"all {len(declared)} budgets"
    return f"none of {counted(len(statuses), 'candidate')} keeps {kept}: {counts}"
