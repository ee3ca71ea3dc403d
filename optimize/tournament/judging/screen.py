"""The first look at a candidate: how many threads it needs, and whether it comes anywhere near its latency budgets."""

import math

import msgspec

from optimize.budgets import limits
from optimize.convert.candidate_specs import SOURCE
from optimize.manifest import Measurement
from optimize.measure import screen
from optimize.tournament.candidate import Candidate
from optimize.tournament.judging.latency import PERCENTILES, limit_of
from optimize.tournament.tournament import Tournament

# A candidate whose median of 20 calls is this far over a limit will not come back below it.
HOPELESS = 3.0
# More threads answer one request sooner but fewer requests at once, so they are used only where one thread leaves too little room.
_ROOMY_SHARE = 0.7
_WORTH_MORE_THREADS = 0.1


def time(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Open it with the threads that it needs, check its answers, and stop it where its latency is hopeless.

    Raises:
        CandidateError: It does not open, fails, or answers NaN.
    """
    candidate, found = _with_threads(tournament, candidate)
    method = "median of 20 calls without a long warm-up"
    candidate = candidate.measured(Measurement("screen.p50_ms", found.median_ms, "ms", found.calls, method))
    for limit in limits(tournament.budgets):
        if limit.key in PERCENTILES and found.median_ms > HOPELESS * limit.value:
            over = f"over {HOPELESS:g} times {limit.key} = {limit.value:g}"
            reason = f"median {found.median_ms:.3g} ms of {found.calls} calls, {over}"
            return msgspec.structs.replace(candidate, stopped=reason)
    return candidate


def stop_over_budget(candidate: Candidate) -> Candidate:
    """The candidate, stopped where few samples already showed that it is over an accuracy budget."""
    lost = next((verdict for verdict in candidate.verdicts.values() if verdict.verdict == "FAIL" and verdict.n), None)
    if lost is None:
        return candidate
    return msgspec.structs.replace(candidate, stopped=f"{lost.budget} in the screen: {lost.evidence}")


def _with_threads(tournament: Tournament, candidate: Candidate) -> tuple[Candidate, screen.Screen]:
    """The candidate with the fewest threads that leave its latency budgets room, else with the fastest; and its screen."""
    roomy_ms = _ROOMY_SHARE * min(limit_of(tournament, key) for key in PERCENTILES)
    found: dict[int, screen.Screen] = {}
    for threads in thread_counts(tournament, candidate):
        found[threads] = _screened(tournament, candidate.with_threads(threads))
        if found[threads].median_ms <= roomy_ms:
            return candidate.with_threads(threads), found[threads]
    chosen = min(found, key=lambda threads: found[threads].median_ms * (1 if threads == 1 else 1 + _WORTH_MORE_THREADS))
    return candidate.with_threads(chosen), found[chosen]


def thread_counts(tournament: Tournament, candidate: Candidate) -> list[int]:
    """1, 2, 4 ... up to the cores; the source stays at 1, and is timed again with the threads of each candidate."""
    if candidate.published:
        return [candidate.threads]
    if candidate.precision == SOURCE or all(math.isinf(limit_of(tournament, key)) for key in PERCENTILES):
        return [1]
    return [count for count in (2**power for power in range(10)) if count <= tournament.runner.machine.cores]


def _screened(tournament: Tournament, candidate: Candidate) -> screen.Screen:
    return tournament.runner.measured(
        f"{candidate.name}: screen, {candidate.threads} threads",
        screen.Screen,
        screen.measure,
        candidate.model_ref,
        tournament.signature,
        tournament.split("selection"),
        tournament.budgets.latency.batch,
    )
