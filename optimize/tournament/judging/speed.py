"""`speed`: rows per second against the source model, and against the version that is served now."""

import msgspec
import numpy as np

from optimize.manifest import Measurement, Verdict, counted
from optimize.statistics import comparison
from optimize.statistics.finding import Finding
from optimize.tournament.candidate import Candidate
from optimize.tournament.judging.timing import time_interleaved
from optimize.tournament.tournament import Tournament
from optimize.validate.accuracy import SEED

_SPEEDUP, _SLOWDOWN = "speed.min_speedup", "speed.max_slowdown"


def judge_speedup(tournament: Tournament, candidate: Candidate) -> Candidate:
    """`min_speedup`: against the source model on the same threads, each at its own best batch.

    Raises:
        CandidateError: It hangs or dies.
    """
    limit, baseline = (
        tournament.budgets.speed.min_speedup,
        tournament.baseline.with_options(candidate.model_ref.options),
    )
    found = time_interleaved(tournament, f"{candidate.name}: speed-up against the source", candidate, baseline, None)
    ours, theirs = found.a_rows_per_s(), found.b_rows_per_s()
    finding = comparison.speedup(ours, theirs, limit or 1.0, kind="min_speedup", seed=SEED)
    alone = f"{counted(found.a_rows, 'row')} per call on {counted(candidate.threads, 'thread')}"
    candidate = msgspec.structs.replace(candidate, rows_per_s=tuple(ours)).measured(
        Measurement("speed.rows_per_s", float(np.median(ours)), "rows/s", finding.n, alone)
    )
    method = f"rows per second against {baseline.name}, interleaved, {found.a_rows} and {found.b_rows} rows per call"
    return _judged(candidate, _SPEEDUP, limit, finding, method)


def judge_slowdown(tournament: Tournament, candidate: Candidate) -> Candidate:
    """`max_slowdown`: against the current version; where there is none, nothing can be slower.

    Raises:
        CandidateError: It hangs or dies.
    """
    limit, current = tournament.budgets.speed.max_slowdown, tournament.current
    if limit is None:
        return candidate
    if current is None or current.digest == candidate.digest:
        evidence = (
            "there is no current version to time it against" if current is None else "this is the current version"
        )
        return candidate.judged(Verdict(_SLOWDOWN, limit, 1.0, 1.0, 1.0, 0, "PASS", evidence))
    what = f"{candidate.name}: speed against the current version"
    found = time_interleaved(tournament, what, candidate, current, None)
    finding = comparison.speedup(found.a_rows_per_s(), found.b_rows_per_s(), limit, kind="max_slowdown", seed=SEED)
    return _judged(candidate, _SLOWDOWN, limit, finding, f"rows per second against {current.name}, interleaved")


def _judged(candidate: Candidate, key: str, limit: float | None, finding: Finding, method: str) -> Candidate:
    if finding.observed is not None:
        low, high = finding.low, finding.high
        candidate = candidate.measured(Measurement(key, finding.observed, "times", finding.n, method, low, high))
    return candidate if limit is None else candidate.judged(finding.against(key, limit))
