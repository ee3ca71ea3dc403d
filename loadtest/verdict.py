"""Pure: verdicts on the throughput budget from the calls, and whether the generator kept up."""

from dataclasses import dataclass

from msgspec import Struct, structs
from scipy.special import gammaincinv

from loadtest.results import Calls
from optimize.budgets import ThroughputBudget
from optimize.manifest import Outcome, Verdict
from optimize.statistics.blocks import BLOCKS, block_rule, split_blocks
from optimize.statistics.finding import Finding
from optimize.statistics.quantile import quantile

P99 = 0.99
LATE_SHARE = 0.25
"""The generator kept up if at most 1 call in 100 was sent later than this share of the p99 limit."""
LATE_FLOOR_MS = 5.0
"""A process on a busy machine waits this long for a core now and then; less does not mean that the generator is at its limit."""
LATE_WITHOUT_LIMIT_MS = 100.0
"""The same where only a rate is declared: calls that pile up in the generator soon exceed it."""
_ALPHA = 0.05


class Generator(Struct, frozen=True):
    """How late calls were sent, and the highest p99 of it that is tolerated."""

    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float
    tolerance_ms: float
    kept_up: bool


@dataclass(frozen=True, eq=False)
class Run:
    """A run to be judged: all its calls, of which those due before `start_s` are the lead-in."""

    calls: Calls
    rate_qps: float
    start_s: float
    end_s: float
    min_block_calls: int

    @property
    def judged(self) -> Calls:
        """The calls after the lead-in."""
        return self.calls.due_from(self.start_s)

    @property
    def good_answers(self) -> int:
        """Good answers that arrived within the judged part of the schedule."""
        return self.calls.answered_between(self.start_s, self.end_s)

    @property
    def good_qps(self) -> float:
        """Good answers per second."""
        return self.good_answers / (self.end_s - self.start_s)


def generator(calls: Calls, p99_limit_ms: float | None) -> Generator:
    """Whether the calls were sent when they were due."""
    late = calls.lateness_ms
    tolerance = LATE_WITHOUT_LIMIT_MS if p99_limit_ms is None else max(LATE_FLOOR_MS, LATE_SHARE * p99_limit_ms)
    late_p99 = quantile(late, P99)
    return Generator(quantile(late, 0.5), late_p99, float(late.max()), tolerance, late_p99 <= tolerance)


def judge(run: Run, budget: ThroughputBudget, health: Generator) -> tuple[Verdict, ...]:
    """One verdict for each key that the budget declares."""
    verdicts = []
    qps = budget.qps
    if qps is not None:
        verdicts.append(_held(rate(run, qps), run.rate_qps, qps, health).against("throughput.qps", qps))
    if budget.p99_ms is not None and qps is not None:
        found = _held(p99(run, budget.p99_ms), run.rate_qps, qps, health)
        verdicts.append(found.against("throughput.p99_ms", budget.p99_ms))
    return tuple(verdicts)


def overall(verdicts: tuple[Verdict, ...]) -> Outcome:
    """FAIL if any budget failed, else INCONCLUSIVE if any is, else PASS."""
    found = {verdict.verdict for verdict in verdicts}
    return "FAIL" if "FAIL" in found else "INCONCLUSIVE" if "INCONCLUSIVE" in found else "PASS"


def p99(run: Run, limit_ms: float) -> Finding:
    """The block rule on latency from the scheduled arrival.

    The generator's lateness is part of that latency. So a FAIL stands only if it also holds without it: counted from when each
    call was sent.
    """
    found = block_rule(split_blocks(run.judged.judged_ms), limit_ms, P99, run.min_block_calls)
    if found.verdict != "FAIL":
        return found
    at_best = block_rule(split_blocks(run.judged.since_sent_ms), limit_ms, P99, run.min_block_calls)
    if at_best.verdict == "FAIL":
        return found
    return _inconclusive(found, "the generator's lateness decides: counted from when each call was sent, it is no FAIL")


def rate(run: Run, qps: float) -> Finding:
    """Good answers per second that arrived in the judged window, compared with a Poisson process of the declared rate.

    `low` and `high` are one-sided 95 % bounds of the rate behind the count (Garwood, 1936). PASS unless even `high` is below the
    declared rate, since only the declared number of calls was offered, and the count varies by chance.
    """
    seconds = run.end_s - run.start_s
    count = run.good_answers
    low = float(gammaincinv(count, _ALPHA)) / seconds if count else 0.0
    high = float(gammaincinv(count + 1, 1.0 - _ALPHA)) / seconds
    calls = len(run.judged)
    evidence = f"{count:,} good answers in {seconds:.1f} s; {qps:g} per second would be {qps * seconds:,.0f}"
    found = Finding("FAIL" if high < qps else "PASS", count / seconds, low, high, calls, evidence)
    if run.rate_qps < qps:
        return _inconclusive(found, f"only {run.rate_qps:g} per second were offered")
    wanted = BLOCKS * run.min_block_calls
    if found.verdict == "PASS" and calls < wanted:
        return _inconclusive(found, f"wanted {wanted:,} calls", wanted)
    return found


def _held(found: Finding, offered_qps: float, declared_qps: float, health: Generator) -> Finding:
    """The finding, unless the load differed from the declared one in a way that makes it inconclusive."""
    if not health.kept_up:
        return _inconclusive(
            found,
            f"the load generator could not keep up (1 call in 100 was sent {health.late_p99_ms:.3g} ms late or more; tolerated:"
            f" {health.tolerance_ms:.3g} ms), so give it its own core, or a lower rate",
        )
    if offered_qps < declared_qps and found.verdict == "PASS":
        return _inconclusive(found, f"at {offered_qps:g} calls per second, fewer than the {declared_qps:g} declared")
    if offered_qps > declared_qps and found.verdict == "FAIL":
        return _inconclusive(found, f"at {offered_qps:g} calls per second, more than the {declared_qps:g} declared")
    return found


def _inconclusive(found: Finding, reason: str, needed: int | None = None) -> Finding:
    return structs.replace(found, verdict="INCONCLUSIVE", evidence=f"{reason}; {found.evidence}", needed=needed)
