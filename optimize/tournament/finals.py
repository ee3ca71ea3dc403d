"""The stages of the few that came through the others, dear ones last.

confirmed   the confirmation split, rows alone, five fresh processes, speed and cost
loaded      for the best of them: latency per batch size, and throughput through the batcher that serves
described   for the one that is published: what else its manifest says of it
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from optimize.manifest import CurvePoint, Measurement, OperatingPoint, Outcome, Verdict, counted
from optimize.measure import curve, golden, latency, operating, throughput
from optimize.measure import interleaved as timing
from optimize.source.loading import RAW, SCREEN
from optimize.statistics import blocks, comparison, percentile
from optimize.statistics.finding import Finding
from optimize.statistics.quantile import quantile
from optimize.tournament.trials import (
    PERCENTILES,
    Candidate,
    Tournament,
    judged_on,
    latency_found,
    latency_run,
    limit_of,
)
from optimize.validate import accuracy, answers
from optimize.validate.accuracy import SEED

FINAL_PROCESSES = percentile.MIN_PROCESSES
# Calls a process; the second round is for those that the first leaves undecided, and each has its part of alpha.
_ROUNDS = percentile.LOOKS[:2]


def confirmed(
    tournament: Tournament, candidate: Candidate, baseline: Candidate, current: Candidate | None
) -> Candidate:
    """The finals: samples that chose nothing, five fresh processes, and speed against the source and the current version.

    Raises:
        CandidateError: It fails on some sample, hangs or dies.
    """
    if tournament.has_samples:
        candidate = _alone(tournament, judged_on(tournament, candidate, baseline, "confirmation"))
    if not candidate.out and any(key in candidate.verdicts for key in PERCENTILES):
        candidate = _pooled(tournament, candidate)
    if not candidate.out and tournament.runner.budgets.preprocess is not None:
        candidate = _end_to_end(tournament, candidate)
    if not candidate.out:
        candidate = _speed(tournament, candidate, baseline.with_options(candidate.model_ref.options))
    return candidate if candidate.out else _slowdown(tournament, candidate, current)


def _end_to_end(tournament: Tournament, candidate: Candidate) -> Candidate:
    """From raw columns to answers: reported beside the model's own latency, and held against no budget."""
    depends = (
        candidate.depends,
        tournament.source.source_digest,
        tournament.source.data_digest,
        tournament.runner.budgets.preprocess,
    )
    arguments = (candidate.model_ref, tournament.split(RAW), percentile.LOOKS[0])
    what = f"{candidate.name}: latency with preprocessing"
    run = tournament.runner.measured(what, latency.LatencyRun, depends, latency.measure_end_to_end, *arguments)
    found = []
    for key, share in {"end_to_end.p50_ms": 0.5, "end_to_end.p99_ms": 0.99}.items():
        low, high = percentile.percentile_bounds(np.array(run.latencies_ms), share, 0.95)
        value = quantile(np.array(run.latencies_ms), share)
        found.append(
            Measurement(
                key, value, "ms", len(run.latencies_ms), "preprocess and one call, real rows as they come", low, high
            )
        )
    return candidate.found(measured=found)


def _alone(tournament: Tournament, candidate: Candidate) -> Candidate:
    """The share of answers that change when a row is answered alone instead of in the largest batch."""
    if tournament.signature.max_batch == 1:
        return candidate
    depends = (candidate.depends, tournament.source.data_digest, SCREEN, tournament.signature)
    what = f"{candidate.name}: answers to {SCREEN}"
    split, model_ref = tournament.split(SCREEN), candidate.model_ref
    batched = tournament.runner.answers(what, depends, answers.record, model_ref, tournament.signature, split)
    alone = tournament.runner.answers(
        f"{what}, row by row",
        (depends, "alone"),
        answers.record,
        model_ref,
        tournament.signature,
        split,
        row_by_row=True,
    )
    found = tournament.runner.measured(
        f"{candidate.name}: rows alone and in a batch",
        accuracy.Changed,
        (depends, tournament.runner.budgets.accuracy),
        accuracy.changed,
        tournament.runner.budgets.accuracy,
        tournament.signature,
        batched,
        alone,
    )
    method = f"rows answered alone and in batches of {tournament.signature.max_batch}"
    return candidate.found(measured=[Measurement("accuracy.batch_changed", found.share, "share", found.n, method)])


def _pooled(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Latency pooled over five fresh processes; calls that are alike need longer runs, so a second round is longer."""
    for calls in _ROUNDS:
        runs = [
            latency_run(tournament, candidate, f"final latency of {calls} calls, process {n + 1}", calls)
            for n in range(FINAL_PROCESSES)
        ]
        arrays = [np.array(run.latencies_ms) for run in runs]
        findings = {
            key: percentile.pooled(
                arrays, limit_of(tournament, key), share, tournament.noise, percentile.ALPHA / len(_ROUNDS)
            )
            for key, share in PERCENTILES.items()
        }
        candidate = msgspec.structs.replace(candidate, latencies_ms=tuple(tuple(run.latencies_ms) for run in runs))
        candidate = latency_found(tournament, candidate, findings, unstable=any(run.unstable for run in runs))
        if all(candidate.verdicts[key].verdict != "INCONCLUSIVE" for key in PERCENTILES if key in candidate.verdicts):
            break
    return candidate


def time_interleaved(
    tournament: Tournament, what: str, a: Candidate, b: Candidate, batch: int | None
) -> timing.InterleavedTiming:
    """Time two candidates interleaved in one process, at `batch` rows a call or each at its own best batch."""
    depends = (a.depends, b.depends, tournament.source.data_digest, tournament.signature, batch)
    arguments = (a.model_ref, b.model_ref, tournament.signature, tournament.split("selection"), batch)
    return tournament.runner.measured(what, timing.InterleavedTiming, depends, timing.time_interleaved, *arguments)


def _speed(tournament: Tournament, candidate: Candidate, baseline: Candidate) -> Candidate:
    """Rows a second against the source model on the same threads, and what a million rows cost at that speed."""
    limit = tournament.runner.budgets.speed.min_speedup
    found = time_interleaved(tournament, f"{candidate.name}: speed-up against the source", candidate, baseline, None)
    finding = comparison.speedup(
        found.a_rows_per_s(), found.b_rows_per_s(), limit or 1.0, kind="min_speedup", seed=SEED
    )
    threads = counted(candidate.model_ref.options.threads, "thread")
    alone = f"{counted(found.a_rows, 'row')} a call on {threads}"
    candidate = candidate.found(
        measured=[Measurement("speed.rows_per_s", float(np.median(found.a_rows_per_s())), "rows/s", finding.n, alone)]
    )
    beside = f"rows a second against {baseline.name}, interleaved, {found.a_rows} and {found.b_rows} rows a call"
    candidate = _ratio_found(candidate, "speed.min_speedup", limit, finding, beside)
    return _cost(tournament, candidate, found.a_rows_per_s())


def _ratio_found(candidate: Candidate, key: str, limit: float | None, finding: Finding, method: str) -> Candidate:
    if finding.observed is not None:
        measurement = Measurement(key, finding.observed, "times", finding.n, method, finding.low, finding.high)
        candidate = candidate.found(measured=[measurement])
    return candidate if limit is None else candidate.found(finding.against(key, limit))


def _slowdown(tournament: Tournament, candidate: Candidate, current: Candidate | None) -> Candidate:
    """Against the version that is served now; where there is none, nothing can be slower than it."""
    key, limit = "speed.max_slowdown", tournament.runner.budgets.speed.max_slowdown
    if limit is None:
        return candidate
    if current is None or current.digest == candidate.digest:
        evidence = (
            "no version is current that could be timed beside it"
            if current is None
            else "this is the version that is current"
        )
        return candidate.found(Verdict(key, limit, 1.0, 1.0, 1.0, 0, "PASS", evidence))
    found = time_interleaved(
        tournament, f"{candidate.name}: speed against the current version", candidate, current, None
    )
    finding = comparison.speedup(found.a_rows_per_s(), found.b_rows_per_s(), limit, kind="max_slowdown", seed=SEED)
    return _ratio_found(candidate, key, limit, finding, f"rows a second against {current.name}, interleaved")


def _cost(tournament: Tournament, candidate: Candidate, rows_per_s: Sequence[float]) -> Candidate:
    """A million rows at the measured speed, for the cores that the session holds, or for its GPU."""
    budget, options = tournament.runner.budgets.cost, candidate.model_ref.options
    unit, held = ("core", options.threads) if options.target == "cpu" else ("GPU", 1)
    per_hour = budget.per_hour.get("cpu" if unit == "core" else "cuda")
    if per_hour is None:
        return candidate
    price = per_hour * held / 3600 * 1e6
    low, high = (float(bound) for bound in np.quantile(np.asarray(rows_per_s), [0.05, 0.95]))
    observed = price / float(np.median(rows_per_s))
    key, n, dearest = "cost.per_million", len(rows_per_s), price / low
    method = f"{per_hour:g} an hour and {unit}, at the best batch of one session"
    candidate = candidate.found(
        measured=[Measurement(key, observed, "per million rows", n, method, price / high, dearest)]
    )
    limit = budget.max_per_million
    if limit is None:
        return candidate
    verdict: Outcome = "PASS" if dearest < limit else "FAIL" if price / high > limit else "INCONCLUSIVE"
    evidence = f"{observed:.4g} per million rows, {price / high:.4g} to {dearest:.4g} in nine of ten blocks of calls"
    return candidate.found(
        Verdict("cost.max_per_million", limit, observed, price / high, dearest, n, verdict, evidence)
    )


def layouts(tournament: Tournament, candidate: Candidate) -> list[OperatingPoint]:
    """Rows a second of every layout of threads and instances on this machine's cores."""
    depends = (candidate.depends, tournament.source.data_digest, tournament.signature)
    arguments = (
        candidate.model_ref,
        tournament.signature,
        tournament.split("selection"),
        tournament.runner.machine.cores,
    )
    what = f"{candidate.name}: threads and instances"
    return tournament.runner.measured(what, list[OperatingPoint], depends, operating.measure, *arguments)


def golden_answers(tournament: Tournament, candidate: Candidate) -> Path:
    """The folder of inputs and the answers to them that whoever loads it replays."""
    depends = (candidate.depends, tournament.source.data_digest, tournament.signature)
    arguments = (candidate.model_ref, tournament.signature, tournament.split("confirmation"))
    return tournament.runner.build(f"{candidate.name}: golden answers", depends, golden.record, *arguments)


def described(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Whatever its manifest says of it is found out before it is chosen, so that one that breaks at it costs only itself.

    Raises:
        CandidateError: It hangs or dies with several sessions, under load, or at its golden answers.
    """
    layouts(tournament, candidate)
    golden_answers(tournament, candidate)
    return loaded(tournament, candidate)


def loaded(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Latency per batch size; and where a rate is declared, throughput through the batcher that serves.

    Raises:
        CandidateError: It hangs or dies under load.
    """
    depends = (candidate.depends, tournament.source.data_digest, tournament.signature)
    split, what = tournament.split("selection"), f"{candidate.name}: latency per batch size"
    points = tournament.runner.measured(
        what, list[CurvePoint], depends, curve.measure, candidate.model_ref, tournament.signature, split
    )
    candidate = msgspec.structs.replace(candidate, curve=tuple(points), loaded=True)
    budget = tournament.runner.budgets.throughput
    return (
        candidate
        if budget.qps is None
        else _throughput(tournament, candidate, budget.qps, budget.p99_ms or float("inf"))
    )


def _throughput(tournament: Tournament, candidate: Candidate, qps: float, limit_ms: float) -> Candidate:
    """The declared rate in full, and an estimate of the highest rate."""
    online = operating.online(layouts(tournament, candidate), candidate.model_ref.options.threads)
    rows = tournament.runner.budgets.latency.batch
    service = throughput.Service(
        candidate.model_ref, tournament.signature, candidate.curve, online.instances, rows, limit_ms
    )
    split, calls = tournament.split("selection"), throughput.JUDGED_CALLS
    depends = (
        candidate.depends,
        tournament.source.data_digest,
        tournament.signature,
        online.instances,
        rows,
        qps,
        limit_ms,
    )
    what = f"{candidate.name}: {calls:,} requests at {qps:g} a second"
    # The limit on a step is there for hangs; how long a load test takes is its schedule's to say.
    isolated = tournament.runner.isolated.allowing(throughput.schedule_s(qps, calls))
    patient = dataclasses.replace(tournament.runner, isolated=isolated)
    load = patient.measured(what, throughput.Load, depends, throughput.measure, service, split, qps, calls)
    what = f"{candidate.name}: search for the highest rate"
    found = patient.measured(what, throughput.Capacity, depends, throughput.capacity, service, split, qps)
    runs, sessions = counted(found.runs, "short run"), counted(online.instances, "session")
    method = f"estimate from {runs} through {sessions}, the highest rate that kept the p99"
    estimate = Measurement("throughput.capacity_qps", found.qps, "requests/s", found.runs, method)
    return _load_found(candidate.found(measured=[estimate]), qps, limit_ms, load)


def _load_found(candidate: Candidate, qps: float, limit_ms: float, load: throughput.Load) -> Candidate:
    """Both throughput verdicts: the p99 by the block rule, and the rate that was really answered."""
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
        evidence=f"{answered:,} of {finding.n:,} requests answered, offered at {qps:g} a second; {finding.evidence}",
        needed=finding.needed,
    )
    verdicts = [rate] if np.isinf(limit_ms) else [rate, finding.against("throughput.p99_ms", limit_ms)]
    return candidate.found(*verdicts)
