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
from optimize.tournament.trials import PERCENTILES, Entrant, Ground, judged_on, latency_found, latency_run, limit_of
from optimize.validate import accuracy, answers
from optimize.validate.accuracy import SEED

FINAL_PROCESSES = percentile.MIN_PROCESSES
# Calls a process; the second round is for those that the first leaves undecided, and each has its part of alpha.
_ROUNDS = percentile.LOOKS[:2]


def confirmed(ground: Ground, entrant: Entrant, baseline: Entrant, current: Entrant | None) -> Entrant:
    """The finals: samples that chose nothing, five fresh processes, and speed against the source and the current version.

    Raises:
        CandidateError: It fails on some sample, hangs or dies.
    """
    if ground.has_samples:
        entrant = _alone(ground, judged_on(ground, entrant, baseline, "confirmation"))
    if not entrant.out and any(key in entrant.verdicts for key in PERCENTILES):
        entrant = _pooled(ground, entrant)
    if not entrant.out and ground.bench.budgets.preprocess is not None:
        entrant = _end_to_end(ground, entrant)
    if not entrant.out:
        entrant = _speed(ground, entrant, baseline.with_options(entrant.subject.options))
    return entrant if entrant.out else _slowdown(ground, entrant, current)


def _end_to_end(ground: Ground, entrant: Entrant) -> Entrant:
    """From raw columns to answers: reported beside the model's own latency, and held against no budget."""
    depends = (
        entrant.depends,
        ground.reading.source_digest,
        ground.reading.data_digest,
        ground.bench.budgets.preprocess,
    )
    arguments = (entrant.subject, ground.split(RAW), percentile.LOOKS[0])
    what = f"{entrant.name}: latency with preprocessing"
    run = ground.bench.measured(what, latency.LatencyRun, depends, latency.measure_end_to_end, *arguments)
    found = []
    for key, share in {"end_to_end.p50_ms": 0.5, "end_to_end.p99_ms": 0.99}.items():
        low, high = percentile.percentile_bounds(np.array(run.latencies_ms), share, 0.95)
        value = quantile(np.array(run.latencies_ms), share)
        found.append(
            Measurement(
                key, value, "ms", len(run.latencies_ms), "preprocess and one call, real rows as they come", low, high
            )
        )
    return entrant.found(measured=found)


def _alone(ground: Ground, entrant: Entrant) -> Entrant:
    """The share of answers that change when a row is answered alone instead of in the largest batch."""
    if ground.signature.max_batch == 1:
        return entrant
    depends = (entrant.depends, ground.reading.data_digest, SCREEN, ground.signature)
    what = f"{entrant.name}: answers to {SCREEN}"
    split, subject = ground.split(SCREEN), entrant.subject
    batched = ground.bench.answers(what, depends, answers.record, subject, ground.signature, split)
    alone = ground.bench.answers(
        f"{what}, row by row", (depends, "alone"), answers.record, subject, ground.signature, split, row_by_row=True
    )
    found = ground.bench.measured(
        f"{entrant.name}: rows alone and in a batch",
        accuracy.Changed,
        (depends, ground.bench.budgets.accuracy),
        accuracy.changed,
        ground.bench.budgets.accuracy,
        ground.signature,
        batched,
        alone,
    )
    method = f"rows answered alone and in batches of {ground.signature.max_batch}"
    return entrant.found(measured=[Measurement("accuracy.batch_changed", found.share, "share", found.n, method)])


def _pooled(ground: Ground, entrant: Entrant) -> Entrant:
    """Latency pooled over five fresh processes; calls that are alike need longer runs, so a second round is longer."""
    for calls in _ROUNDS:
        runs = [
            latency_run(ground, entrant, f"final latency of {calls} calls, process {n + 1}", calls)
            for n in range(FINAL_PROCESSES)
        ]
        arrays = [np.array(run.latencies_ms) for run in runs]
        findings = {
            key: percentile.pooled(arrays, limit_of(ground, key), share, ground.noise, percentile.ALPHA / len(_ROUNDS))
            for key, share in PERCENTILES.items()
        }
        entrant = msgspec.structs.replace(entrant, latencies_ms=tuple(tuple(run.latencies_ms) for run in runs))
        entrant = latency_found(ground, entrant, findings, unstable=any(run.unstable for run in runs))
        if all(entrant.verdicts[key].verdict != "INCONCLUSIVE" for key in PERCENTILES if key in entrant.verdicts):
            break
    return entrant


def duel(ground: Ground, what: str, a: Entrant, b: Entrant, batch: int | None) -> timing.Duel:
    """Time two entrants interleaved in one process, at `batch` rows a call or each at its own best batch."""
    depends = (a.depends, b.depends, ground.reading.data_digest, ground.signature, batch)
    arguments = (a.subject, b.subject, ground.signature, ground.split("selection"), batch)
    return ground.bench.measured(what, timing.Duel, depends, timing.duel, *arguments)


def _speed(ground: Ground, entrant: Entrant, baseline: Entrant) -> Entrant:
    """Rows a second against the source model on the same threads, and what a million rows cost at that speed."""
    limit = ground.bench.budgets.speed.min_speedup
    found = duel(ground, f"{entrant.name}: speed-up against the source", entrant, baseline, None)
    finding = comparison.speedup(
        found.a_rows_per_s(), found.b_rows_per_s(), limit or 1.0, kind="min_speedup", seed=SEED
    )
    threads = counted(entrant.subject.options.threads, "thread")
    alone = f"{counted(found.a_rows, 'row')} a call on {threads}"
    entrant = entrant.found(
        measured=[Measurement("speed.rows_per_s", float(np.median(found.a_rows_per_s())), "rows/s", finding.n, alone)]
    )
    beside = f"rows a second against {baseline.name}, interleaved, {found.a_rows} and {found.b_rows} rows a call"
    entrant = _ratio_found(entrant, "speed.min_speedup", limit, finding, beside)
    return _cost(ground, entrant, found.a_rows_per_s())


def _ratio_found(entrant: Entrant, key: str, limit: float | None, finding: Finding, method: str) -> Entrant:
    if finding.observed is not None:
        measurement = Measurement(key, finding.observed, "times", finding.n, method, finding.low, finding.high)
        entrant = entrant.found(measured=[measurement])
    return entrant if limit is None else entrant.found(finding.against(key, limit))


def _slowdown(ground: Ground, entrant: Entrant, current: Entrant | None) -> Entrant:
    """Against the version that is served now; where there is none, nothing can be slower than it."""
    key, limit = "speed.max_slowdown", ground.bench.budgets.speed.max_slowdown
    if limit is None:
        return entrant
    if current is None or current.digest == entrant.digest:
        evidence = (
            "no version is current that could be timed beside it"
            if current is None
            else "this is the version that is current"
        )
        return entrant.found(Verdict(key, limit, 1.0, 1.0, 1.0, 0, "PASS", evidence))
    found = duel(ground, f"{entrant.name}: speed against the current version", entrant, current, None)
    finding = comparison.speedup(found.a_rows_per_s(), found.b_rows_per_s(), limit, kind="max_slowdown", seed=SEED)
    return _ratio_found(entrant, key, limit, finding, f"rows a second against {current.name}, interleaved")


def _cost(ground: Ground, entrant: Entrant, rows_per_s: Sequence[float]) -> Entrant:
    """A million rows at the measured speed, for the cores that the session holds, or for its GPU."""
    budget, options = ground.bench.budgets.cost, entrant.subject.options
    unit, held = ("core", options.threads) if options.target == "cpu" else ("GPU", 1)
    per_hour = budget.per_hour.get("cpu" if unit == "core" else "cuda")
    if per_hour is None:
        return entrant
    price = per_hour * held / 3600 * 1e6
    low, high = (float(bound) for bound in np.quantile(np.asarray(rows_per_s), [0.05, 0.95]))
    observed = price / float(np.median(rows_per_s))
    key, n, dearest = "cost.per_million", len(rows_per_s), price / low
    method = f"{per_hour:g} an hour and {unit}, at the best batch of one session"
    entrant = entrant.found(measured=[Measurement(key, observed, "per million rows", n, method, price / high, dearest)])
    limit = budget.max_per_million
    if limit is None:
        return entrant
    verdict: Outcome = "PASS" if dearest < limit else "FAIL" if price / high > limit else "INCONCLUSIVE"
    evidence = f"{observed:.4g} per million rows, {price / high:.4g} to {dearest:.4g} in nine of ten blocks of calls"
    return entrant.found(Verdict("cost.max_per_million", limit, observed, price / high, dearest, n, verdict, evidence))


def layouts(ground: Ground, entrant: Entrant) -> list[OperatingPoint]:
    """Rows a second of every layout of threads and instances on this machine's cores."""
    depends = (entrant.depends, ground.reading.data_digest, ground.signature)
    arguments = (entrant.subject, ground.signature, ground.split("selection"), ground.bench.machine.cores)
    what = f"{entrant.name}: threads and instances"
    return ground.bench.measured(what, list[OperatingPoint], depends, operating.measure, *arguments)


def golden_answers(ground: Ground, entrant: Entrant) -> Path:
    """The folder of inputs and the answers to them that whoever loads it replays."""
    depends = (entrant.depends, ground.reading.data_digest, ground.signature)
    arguments = (entrant.subject, ground.signature, ground.split("confirmation"))
    return ground.bench.build(f"{entrant.name}: golden answers", depends, golden.record, *arguments)


def described(ground: Ground, entrant: Entrant) -> Entrant:
    """Whatever its manifest says of it is found out before it is chosen, so that one that breaks at it costs only itself.

    Raises:
        CandidateError: It hangs or dies with several sessions, under load, or at its golden answers.
    """
    layouts(ground, entrant)
    golden_answers(ground, entrant)
    return loaded(ground, entrant)


def loaded(ground: Ground, entrant: Entrant) -> Entrant:
    """Latency per batch size; and where a rate is declared, throughput through the batcher that serves.

    Raises:
        CandidateError: It hangs or dies under load.
    """
    depends = (entrant.depends, ground.reading.data_digest, ground.signature)
    split, what = ground.split("selection"), f"{entrant.name}: latency per batch size"
    points = ground.bench.measured(
        what, list[CurvePoint], depends, curve.measure, entrant.subject, ground.signature, split
    )
    entrant = msgspec.structs.replace(entrant, curve=tuple(points), loaded=True)
    budget = ground.bench.budgets.throughput
    return entrant if budget.qps is None else _throughput(ground, entrant, budget.qps, budget.p99_ms or float("inf"))


def _throughput(ground: Ground, entrant: Entrant, qps: float, limit_ms: float) -> Entrant:
    """The declared rate in full, and an estimate of the highest rate."""
    online = operating.online(layouts(ground, entrant), entrant.subject.options.threads)
    rows = ground.bench.budgets.latency.batch
    service = throughput.Service(entrant.subject, ground.signature, entrant.curve, online.instances, rows, limit_ms)
    split, calls = ground.split("selection"), throughput.JUDGED_CALLS
    depends = (entrant.depends, ground.reading.data_digest, ground.signature, online.instances, rows, qps, limit_ms)
    what = f"{entrant.name}: {calls:,} requests at {qps:g} a second"
    # The limit on a step is there for hangs; how long a load test takes is its schedule's to say.
    isolated = ground.bench.isolated.allowing(throughput.schedule_s(qps, calls))
    patient = dataclasses.replace(ground.bench, isolated=isolated)
    load = patient.measured(what, throughput.Load, depends, throughput.measure, service, split, qps, calls)
    what = f"{entrant.name}: search for the highest rate"
    found = patient.measured(what, throughput.Capacity, depends, throughput.capacity, service, split, qps)
    runs, sessions = counted(found.runs, "short run"), counted(online.instances, "session")
    method = f"estimate from {runs} through {sessions}, the highest rate that kept the p99"
    estimate = Measurement("throughput.capacity_qps", found.qps, "requests/s", found.runs, method)
    return _load_found(entrant.found(measured=[estimate]), qps, limit_ms, load)


def _load_found(entrant: Entrant, qps: float, limit_ms: float, load: throughput.Load) -> Entrant:
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
    return entrant.found(*verdicts)
