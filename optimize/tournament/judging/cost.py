"""`cost`: what a million rows cost at the measured speed."""

import numpy as np

from optimize.manifest import Measurement, Outcome, Verdict
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament


def judge(tournament: Tournament, candidate: Candidate) -> Candidate:
    """A million rows, for the cores that the session holds, or for its GPU."""
    budget, options, rows_per_s = tournament.budgets.cost, candidate.model_ref.options, candidate.rows_per_s
    unit, held = ("core", options.threads) if options.target == "cpu" else ("GPU", 1)
    per_hour = budget.per_hour.get("cpu" if unit == "core" else "cuda")
    if per_hour is None:
        return candidate
    price, n = per_hour * held / 3600 * 1e6, len(rows_per_s)
    slowest, fastest = (float(bound) for bound in np.quantile(np.asarray(rows_per_s), [0.05, 0.95]))
    observed, low, high = price / float(np.median(rows_per_s)), price / fastest, price / slowest
    method = f"{per_hour:g} an hour and {unit}, at the best batch of one session"
    candidate = candidate.measured(Measurement("cost.per_million", observed, "per million rows", n, method, low, high))
    limit = budget.max_per_million
    if limit is None:
        return candidate
    verdict: Outcome = "PASS" if high < limit else "FAIL" if low > limit else "INCONCLUSIVE"
    evidence = f"{observed:.4g} per million rows, {low:.4g} to {high:.4g} in nine of ten blocks of calls"
    return candidate.judged(Verdict("cost.max_per_million", limit, observed, low, high, n, verdict, evidence))
