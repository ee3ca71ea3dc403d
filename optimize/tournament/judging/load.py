"""`throughput`: latency per batch size, layouts of threads and instances, and the rate that the batcher keeps under load."""

import math

import msgspec
import numpy as np

from optimize.manifest import CurvePoint, Measurement, OperatingPoint, Verdict, counted
from optimize.measure import curve, operating, throughput
from optimize.statistics import blocks
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament


def layouts(tournament: Tournament, candidate: Candidate) -> list[OperatingPoint]:
    """Rows per second of every layout of threads and instances on this machine's cores.

    Raises:
        CandidateError: It hangs or dies with several sessions.
    """
    return tournament.runner.measured(
        f"{candidate.name}: threads and instances",
        list[OperatingPoint],
        operating.measure,
        candidate.model_ref,
        tournament.signature,
        tournament.split("selection"),
        tournament.runner.machine.cores,
    )


def measure_curve(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Latency per batch size, which the batcher plans with.

    Raises:
        CandidateError: It hangs or dies.
    """
    points = tournament.runner.measured(
        f"{candidate.name}: latency per batch size",
        list[CurvePoint],
        curve.measure,
        candidate.model_ref,
        tournament.signature,
        tournament.split("selection"),
    )
    return msgspec.structs.replace(candidate, curve=tuple(points), load_tested=True)


def judge(tournament: Tournament, candidate: Candidate) -> Candidate:
    """The declared rate through the batcher that serves, and an estimate of the highest rate.

    Raises:
        CandidateError: It hangs or dies under load.
    """
    qps = tournament.budgets.throughput.qps
    if qps is None:
        return candidate
    service, split, calls = _service(tournament, candidate), tournament.split("selection"), throughput.JUDGED_CALLS
    # The limit on a stage is there for hangs; a load test takes as long as its schedule.
    runner = tournament.runner.allowing(throughput.schedule_s(qps, calls))
    what = f"{candidate.name}: {calls:,} requests at {qps:g}/s"
    load = runner.measured(what, throughput.Load, throughput.measure, service, split, qps, calls)
    what = f"{candidate.name}: search for the highest rate"
    found = runner.measured(what, throughput.Capacity, throughput.capacity, service, split, qps)
    runs, sessions = counted(found.runs, "short run"), counted(service.instances, "session")
    method = f"estimate from {runs} through {sessions}, the highest rate that kept the p99"
    candidate = candidate.measured(Measurement("throughput.capacity_qps", found.qps, "requests/s", found.runs, method))
    return candidate.judged(*_verdicts(qps, service.limit_ms, load))


def _service(tournament: Tournament, candidate: Candidate) -> throughput.Service:
    """The candidate in the layout that serves single requests."""
    online = operating.online(layouts(tournament, candidate), candidate.threads)
    budgets = tournament.budgets
    return throughput.Service(
        candidate.model_ref,
        tournament.signature,
        candidate.curve,
        online.instances,
        budgets.latency.batch,
        budgets.throughput.p99_ms or math.inf,
    )


def _verdicts(qps: float, limit_ms: float, load: throughput.Load) -> list[Verdict]:
    """The rate that was really answered, and the p99 by the block rule where it has a limit."""
    latencies = np.array([np.inf if latency is None else latency for latency in load.latencies_ms])
    finding = blocks.block_rule(blocks.split_blocks(latencies), limit_ms)
    answered = int(np.isfinite(latencies).sum())
    rate = Verdict(
        budget="throughput.qps",
        limit=qps,
        observed=load.answered_qps,
        low=None,
        high=None,
        n=finding.n,
        verdict=finding.verdict,
        evidence=f"{answered:,} of {finding.n:,} requests answered, offered at {qps:g}/s; {finding.evidence}",
        needed=finding.needed,
    )
    return [rate] if math.isinf(limit_ms) else [rate, finding.against("throughput.p99_ms", limit_ms)]
