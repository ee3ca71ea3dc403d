"""How much room the winner has: which of its budgets is nearest to its limit."""

from collections.abc import Sequence

from optimize.budgets import Limit
from optimize.manifest import CandidateResult, Verdict
from optimize.report.wording import CAPACITY, decisive, number, quantity, title


def tightest(candidate: CandidateResult, declared: Sequence[Limit]) -> str:
    """The budget with the smallest margin, in words; empty where none has a figure."""
    verdicts = {verdict.budget: verdict for verdict in candidate.verdicts}
    margins = [
        (margin(limit, value), limit, value)
        for limit in declared
        if limit.key in verdicts and (value := _nearest(verdicts[limit.key], limit, candidate)) is not None
    ]
    if not margins:
        return ""
    room, limit, value = min(margins, key=lambda found: found[0])
    side = "at most" if limit.better == "lower" else "at least"
    return f"{title(limit.key)}, {quantity(limit.key, value)} of {side} {number(limit.value)}: {room:.0%} to spare"


def margin(limit: Limit, value: float) -> float:
    """The room between a value and its limit, as a share of the limit; of what a share may lose, where more is better."""
    room = limit.value - value if limit.better == "lower" else value - limit.value
    whole = 1 - limit.value if limit.better == "higher" and 0 < limit.value < 1 else limit.value
    return room / abs(whole) if whole else room


def _nearest(verdict: Verdict, limit: Limit, candidate: CandidateResult) -> float | None:
    """What a verdict rests on; a rate is offered exactly, so its room is what the service could have answered."""
    if limit.key == "throughput.qps":
        capacity = candidate.measured(CAPACITY)
        return None if capacity is None else capacity.value
    bound = decisive(verdict, limit.better)
    return verdict.observed if bound is None else bound
