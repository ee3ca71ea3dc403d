"""`latency`: p50 and p99 of single calls in fresh processes, and what raw columns add to them."""

import math
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from optimize.budgets import limits
from optimize.execution.keys import DigestedPath
from optimize.manifest import Measurement, counted
from optimize.measure import latency
from optimize.source.loading import RAW
from optimize.statistics import percentile
from optimize.statistics.finding import Finding
from optimize.statistics.quantile import quantile
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament

Calls = npt.NDArray[np.float64]
Rule = Callable[[list[Calls], float, float], Finding]
PERCENTILES = {"latency.p50_ms": 0.5, "latency.p99_ms": 0.99}
_END_TO_END = {"end_to_end.p50_ms": 0.5, "end_to_end.p99_ms": 0.99}
PROCESSES = percentile.MIN_PROCESSES
# Calls per process. The second round is for those that the first leaves undecided; each has its part of alpha.
_ROUNDS = percentile.LOOKS[:2]


def limit_of(tournament: Tournament, key: str) -> float:
    """The declared limit; infinite without one, when the finding is used for its figures only."""
    return next((limit.value for limit in limits(tournament.budgets) if limit.key == key), math.inf)


def judge_looks(tournament: Tournament, candidate: Candidate) -> Candidate:
    """One more process at each of the looks that were fixed beforehand, until every percentile is decided.

    Raises:
        CandidateError: It hangs or dies.
    """

    def rule(runs: list[Calls], limit_ms: float, share: float) -> Finding:
        return percentile.look(np.concatenate(runs), limit_ms, share, noise=tournament.noise)

    runs: list[latency.LatencyRun] = []
    for before, calls in zip((0, *percentile.LOOKS), percentile.LOOKS, strict=False):
        what = f"latency up to {calls} calls"
        runs.append(_timed(tournament, candidate, what, calls - before, repetition="look"))
        candidate = _judged(tournament, candidate, runs, rule)
        if candidate.out or _decided(candidate):
            break
    return candidate


def judge_pooled(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Pooled over five fresh processes; calls that are correlated need longer runs, so a second round is longer.

    Raises:
        CandidateError: It hangs or dies.
    """
    if not any(key in candidate.verdicts for key in PERCENTILES):
        return candidate

    def rule(runs: list[Calls], limit_ms: float, share: float) -> Finding:
        alpha = percentile.ALPHA / len(_ROUNDS)
        return percentile.pooled(runs, limit_ms, share, tournament.noise, alpha)

    for calls in _ROUNDS:
        what = f"final latency of {calls} calls, process "
        runs = [
            _timed(tournament, candidate, f"{what}{process}", calls, repetition=f"process {process}")
            for process in range(1, PROCESSES + 1)
        ]
        candidate = _judged(tournament, candidate, runs, rule)
        if _decided(candidate):
            break
    return candidate


def _timed(tournament: Tournament, candidate: Candidate, what: str, calls: int, repetition: str) -> latency.LatencyRun:
    """Time single calls in a fresh process."""
    return tournament.runner.measured(
        f"{candidate.name}: {what}",
        latency.LatencyRun,
        latency.measure,
        candidate.model_ref,
        tournament.signature,
        tournament.split("selection"),
        tournament.budgets.latency.batch,
        calls,
        repetition=repetition,
    )


def _judged(tournament: Tournament, candidate: Candidate, runs: list[latency.LatencyRun], rule: Rule) -> Candidate:
    """The candidate with a measurement of each percentile, and a verdict where a limit is declared."""
    arrays = [np.array(run.latencies_ms) for run in runs]
    candidate = msgspec.structs.replace(candidate, latencies_ms=tuple(tuple(run.latencies_ms) for run in runs))
    method = f"single calls in process, {counted(candidate.threads, 'thread')}"
    for key, share in PERCENTILES.items():
        limit_ms = limit_of(tournament, key)
        finding = rule(arrays, limit_ms, share)
        if finding.observed is not None:
            candidate = candidate.measured(
                Measurement(key, finding.observed, "ms", finding.n, method, finding.low, finding.high)
            )
        if math.isfinite(limit_ms):
            verdict = finding.against(key, limit_ms)
            if any(run.unstable for run in runs):
                evidence = f"{verdict.evidence}; unstable: latency did not settle in the warm-up"
                verdict = msgspec.structs.replace(verdict, evidence=evidence)
            candidate = candidate.judged(verdict)
    return candidate


def _decided(candidate: Candidate) -> bool:
    found = [candidate.verdicts[key] for key in PERCENTILES if key in candidate.verdicts]
    return all(verdict.verdict != "INCONCLUSIVE" for verdict in found)


def measure_end_to_end(tournament: Tournament, candidate: Candidate) -> Candidate:
    """From raw columns to answers: reported with the model's own latency, and checked against no budget.

    Raises:
        CandidateError: It hangs or dies.
    """
    spec = tournament.budgets.preprocess
    if spec is None:
        return candidate
    run = tournament.runner.measured(
        f"{candidate.name}: latency with preprocessing",
        latency.LatencyRun,
        latency.measure_end_to_end,
        candidate.model_ref,
        spec,
        DigestedPath(tournament.runner.base, tournament.source.preprocess_digest),
        tournament.split(RAW),
        percentile.LOOKS[0],
    )
    calls, n, method = np.array(run.latencies_ms), len(run.latencies_ms), "preprocess and one call, on real rows"
    for key, share in _END_TO_END.items():
        low, high = percentile.percentile_bounds(calls, share, 0.95)
        candidate = candidate.measured(Measurement(key, quantile(calls, share), "ms", n, method, low, high))
    return candidate
