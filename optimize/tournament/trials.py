"""What is known of one candidate while it goes through its stages, cheap ones first.

    enter     build the artefact
    screen    size, sanity, 20 calls, 256 samples: whoever fails hard stops here, with the reason
    measure   memory, every sample of the selection split, latency in up to three looks

Each stage reads an candidate and returns a new one; :mod:`optimize.tournament.finals` has those that follow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from optimize.budgets import limits
from optimize.convert import candidate_build
from optimize.convert.candidate_build import BuiltCandidate
from optimize.convert.candidate_specs import SOURCE, CandidateSpec
from optimize.execution.stage_runner import StageRunner, stored
from optimize.manifest import (
    Artifact,
    Blob,
    CandidateResult,
    CurvePoint,
    Histogram,
    Measurement,
    SessionOptions,
    Signature,
    Status,
    Verdict,
    counted,
    digest_of,
)
from optimize.measure import latency, memory, screen
from optimize.source.loading import PROBE, SCREEN, Source
from optimize.source.model_ref import ModelRef
from optimize.statistics import percentile
from optimize.statistics.finding import Finding
from optimize.validate import accuracy, answers
from optimize.validate.accuracy import Accuracy

MEMORY_PROCESSES = 3
# A candidate whose median of 20 calls is this far over a limit will not come back below it.
HOPELESS = 3.0
# More threads serve one request sooner and fewer requests at once, so they are taken only where one thread leaves too little room.
_ROOMY_SHARE = 0.7
_WORTH_MORE_THREADS = 0.1
PERCENTILES = {"latency.p50_ms": 0.5, "latency.p99_ms": 0.99}
_HISTOGRAM_BINS = 40


class Tournament(Struct, frozen=True):
    """What the results of one model stand on.

    `noise` is the share by which an A/A run of the baseline differed; `portable` is where the code of `preprocess` was taken to.
    """

    runner: StageRunner
    source: Source
    signature: Signature
    splits: Path
    baseline: Path
    baseline_digest: str
    portable: Path | None = None
    noise: float = 0.0

    def model_ref(self, options: SessionOptions, path: Path | None = None) -> ModelRef:
        """An artefact's file, or the source model."""
        return ModelRef(self.runner.budgets, self.runner.base, options, path)

    def split(self, name: str) -> Path:
        """Where the samples of a split are stored."""
        return self.splits / f"{name}.npz"

    @property
    def has_samples(self) -> bool:
        """Whether there is anything to judge accuracy on."""
        return bool(self.source.rows)


class Candidate(Struct, frozen=True):
    """One candidate on its way: what it is, and what was found of it so far.

    A `settled` one is published already, and is judged with the threads that serve it.
    """

    name: str
    precision: str
    runtime: str
    model_ref: ModelRef
    digest: str
    artifact: Artifact | None = None
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    verdicts: Mapping[str, Verdict] = {}
    measurements: Mapping[str, Measurement] = {}
    latencies_ms: tuple[tuple[float, ...], ...] = ()
    accuracy: Accuracy | None = None
    curve: tuple[CurvePoint, ...] = ()
    settled: bool = False
    loaded: bool = False
    stopped: str = ""
    failed: str = ""

    @property
    def depends(self) -> tuple[object, ...]:
        """What measurements of this candidate depend on."""
        return (self.digest, self.model_ref.options)

    def with_options(self, options: SessionOptions) -> "Candidate":
        """The candidate opened otherwise, in its artefact's record as well."""
        artifact = None if self.artifact is None else msgspec.structs.replace(self.artifact, options=options)
        return msgspec.structs.replace(
            self, model_ref=msgspec.structs.replace(self.model_ref, options=options), artifact=artifact
        )

    @property
    def out(self) -> bool:
        """Whether it stopped, or has lost some budget already."""
        return bool(self.failed or self.stopped) or any(verdict.verdict == "FAIL" for verdict in self.verdicts.values())

    def found(self, *verdicts: Verdict, measured: Sequence[Measurement] = ()) -> "Candidate":
        """The candidate with more verdicts and measurements; a later one of a key takes the place of an earlier."""
        return msgspec.structs.replace(
            self,
            verdicts={**self.verdicts, **{verdict.budget: verdict for verdict in verdicts}},
            measurements={**self.measurements, **{measurement.key: measurement for measurement in measured}},
        )

    def result(self, status: Status = "not-measured", reason: str = "") -> CandidateResult:
        """The record of what was found; a candidate that failed or was stopped says so instead of the given status."""
        if self.failed:
            status, reason = "failed", self.failed
        elif self.stopped:
            status, reason = "screened-out", self.stopped
        return CandidateResult(
            name=self.name,
            precision=self.precision,  # type: ignore[arg-type] # a spec's precision, or "source"
            runtime=self.runtime,
            status=status,
            reason=reason,
            verdicts=tuple(self.verdicts.values()),
            measurements=tuple(self.measurements.values()),
            curve=self.curve,
            artifact=self.artifact,
            latencies=_histogram(self.latencies_ms),
            flipped=self.accuracy.flipped if self.accuracy else (),
            lost_by_class=self.accuracy.lost_by_class if self.accuracy else {},
            notes=self.notes,
        )


def _histogram(runs: Sequence[Sequence[float]]) -> Histogram | None:
    pooled = np.array([value for run in runs for value in run])
    if not pooled.size:
        return None
    fastest, tail, slowest = pooled.min() * 0.999, np.quantile(pooled, 0.99), pooled.max() * 1.001
    # Most bins for the bulk of the calls: one slow call would else leave all others in two or three.
    bulk = np.geomspace(fastest, tail, _HISTOGRAM_BINS * 3 // 4 + 1)
    edges = np.unique(np.concatenate([bulk, np.geomspace(tail, slowest, _HISTOGRAM_BINS // 4 + 1)]))
    counts, _ = np.histogram(pooled, bins=edges)
    return Histogram(tuple(map(float, edges)), tuple(map(int, counts)))


def source(tournament: Tournament, options: SessionOptions) -> Candidate:
    """The source model as an candidate: the baseline of every comparison, never published."""
    runtime = tournament.source.runtime
    model_ref = tournament.model_ref(options)
    return Candidate(f"source@{runtime}", SOURCE, runtime, model_ref, tournament.source.source_digest)


def enter(tournament: Tournament, spec: CandidateSpec, options: SessionOptions) -> Candidate:
    """BuiltCandidate a spec's artefact.

    Raises:
        CandidateError: It cannot be built; the message is the cause.
    """
    runner, calibration = tournament.runner, tournament.split("calibration")
    capabilities = runner.budgets.compute_capabilities if spec.engine else ()
    depends = (tournament.baseline_digest, tournament.source.data_digest, spec, tournament.signature, capabilities)
    arguments = (spec, tournament.baseline, calibration, tournament.signature, capabilities)
    folder = runner.build(f"{spec.name}: build", depends, candidate_build.build, *arguments)
    record = stored(folder, BuiltCandidate)
    files = tuple(Blob(name, digest_of(folder / name), (folder / name).stat().st_size) for name in record.files)
    changed = (f"{counted(record.changed, 'node')} changed precision",) if record.changed else ()
    return Candidate(
        name=spec.name,
        precision=spec.precision,
        runtime=spec.runtime,
        model_ref=tournament.model_ref(options, folder / record.files[0]),
        digest=files[0].digest,
        artifact=Artifact(_format(spec), files, options),
        folder=folder,
        notes=changed + record.notes,
    )


def _format(spec: CandidateSpec) -> Literal["onnx", "tensorrt", "tensorrt-rtx"]:
    if spec.target == "tensorrt":
        return "tensorrt"
    return "tensorrt-rtx" if spec.target == "tensorrt-rtx" else "onnx"


def screened(tournament: Tournament, candidate: Candidate, baseline: Candidate) -> Candidate:
    """Size, sanity, 20 calls and 256 samples.

    Raises:
        CandidateError: It does not open, fails, or answers NaN.
    """
    candidate = _sized(tournament, candidate)
    if candidate.out:
        return candidate
    budgets = tournament.runner.budgets
    candidate, found = _with_threads(tournament, candidate)
    note = Measurement("screen.p50_ms", found.median_ms, "ms", found.calls, "median of 20 calls without a long warm-up")
    candidate = candidate.found(measured=[note])
    for limit in limits(budgets):
        if limit.key in PERCENTILES and found.median_ms > HOPELESS * limit.value:
            reason = f"median {found.median_ms:.3g} ms of {found.calls} calls, over {HOPELESS:g} times {limit.key} = {limit.value:g}"
            return msgspec.structs.replace(candidate, stopped=reason)
    if not tournament.has_samples or candidate.precision == SOURCE:
        return candidate
    candidate = judged_on(tournament, candidate, baseline, SCREEN)
    lost = next((verdict for verdict in candidate.verdicts.values() if verdict.verdict == "FAIL" and verdict.n), None)
    return (
        msgspec.structs.replace(candidate, stopped=f"{lost.budget} in the screen: {lost.evidence}")
        if lost
        else candidate
    )


def _with_threads(tournament: Tournament, candidate: Candidate) -> tuple[Candidate, screen.Screen]:
    """The candidate with the fewest threads that give its latency budgets room, else with the fastest; and its screen."""
    found: dict[int, screen.Screen] = {}
    for threads in _thread_counts(tournament, candidate):
        result = candidate.with_options(msgspec.structs.replace(candidate.model_ref.options, threads=threads))
        depends = (
            result.depends,
            tournament.source.data_digest,
            tournament.signature,
            tournament.runner.budgets.latency.batch,
        )
        arguments = (
            result.model_ref,
            tournament.signature,
            tournament.split("selection"),
            tournament.runner.budgets.latency.batch,
        )
        what = f"{candidate.name}: screen, {threads} threads"
        found[threads] = tournament.runner.measured(what, screen.Screen, depends, screen.measure, *arguments)
        if found[threads].median_ms <= _ROOMY_SHARE * _tightest_ms(tournament):
            break
    chosen = min(found, key=lambda threads: found[threads].median_ms * (1 if threads == 1 else 1 + _WORTH_MORE_THREADS))
    if found[max(found)].median_ms <= _ROOMY_SHARE * _tightest_ms(tournament):
        chosen = max(found)
    return candidate.with_options(msgspec.structs.replace(candidate.model_ref.options, threads=chosen)), found[chosen]


def _thread_counts(tournament: Tournament, candidate: Candidate) -> list[int]:
    """1, 2, 4 ... up to the cores; the source model stays at 1, and is measured again beside each candidate's own count."""
    if candidate.settled:
        return [candidate.model_ref.options.threads]
    if candidate.precision == SOURCE or not np.isfinite(_tightest_ms(tournament)):
        return [1]
    return [count for count in (2**power for power in range(10)) if count <= tournament.runner.machine.cores]


def _tightest_ms(tournament: Tournament) -> float:
    return min(limit_of(tournament, key) for key in PERCENTILES)


def _sized(tournament: Tournament, candidate: Candidate) -> Candidate:
    if candidate.artifact is None:
        return candidate
    mb = candidate.artifact.size_bytes / 1e6
    measured = [Measurement("size.mb", mb, "MB", 1, "bytes of the artefact's files")]
    limit = tournament.runner.budgets.size.mb
    if limit is None:
        return candidate.found(measured=measured)
    evidence = f"{candidate.artifact.size_bytes:,} bytes in {counted(len(candidate.artifact.files), 'file')}"
    verdict = Verdict("size.mb", limit, mb, mb, mb, 0, "PASS" if mb <= limit else "FAIL", evidence)
    return candidate.found(verdict, measured=measured)


def judged_on(tournament: Tournament, candidate: Candidate, baseline: Candidate, split: str) -> Candidate:
    """Accuracy and agreement on one split, both models' answers being recorded once."""
    runner, budget = tournament.runner, tournament.runner.budgets.accuracy
    # The source only gives the answers to compare with here: nobody asks how fast, so it may take every core.
    baseline = baseline.with_options(SessionOptions("cpu", runner.machine.cores))
    files = [
        runner.answers(
            f"{who.name}: answers to {split}",
            (who.depends, tournament.source.data_digest, split, tournament.signature),
            answers.record,
            who.model_ref,
            tournament.signature,
            tournament.split(split),
        )
        for who in (baseline, candidate)
    ]
    found = runner.measured(
        f"{candidate.name}: accuracy on {split}",
        Accuracy,
        (
            baseline.depends,
            candidate.depends,
            tournament.source.data_digest,
            tournament.source.metric_digest,
            split,
            tournament.signature,
            budget,
        ),
        accuracy.judge,
        budget,
        runner.base,
        tournament.signature,
        tournament.split(split),
        *files,
    )
    candidate = msgspec.structs.replace(candidate, accuracy=found)
    method = f"paired with the source model's answers on the {split} split"
    pairs = [
        ("accuracy.max_drop", found.drop, budget.max_drop),
        ("accuracy.min_agreement", found.agreement, budget.min_agreement),
    ]
    for key, finding, limit in pairs:
        if finding is None or finding.observed is None:
            continue
        low, high = finding.low, finding.high
        candidate = candidate.found(
            measured=[Measurement(key, finding.observed, "share", finding.n, method, low, high)]
        )
        if limit is not None:
            candidate = candidate.found(finding.against(key, limit))
    return candidate


def measured(tournament: Tournament, candidate: Candidate, baseline: Candidate) -> Candidate:
    """Memory, the whole selection split, and latency in up to three looks; stops at the first lost budget.

    Raises:
        CandidateError: It fails on some sample, hangs or dies.
    """
    if tournament.runner.budgets.memory.peak_mb is not None and candidate.artifact is not None:
        candidate = _memory(tournament, candidate)
    if tournament.has_samples and candidate.precision != SOURCE and not candidate.out:
        candidate = judged_on(tournament, candidate, baseline, "selection")
    return candidate if candidate.out else _looks(tournament, candidate)


def _memory(tournament: Tournament, candidate: Candidate) -> Candidate:
    peaks = [
        tournament.runner.measured(
            f"{candidate.name}: memory {attempt}",
            memory.Peak,
            (candidate.depends, tournament.source.data_digest, tournament.signature, attempt),
            memory.measure,
            candidate.model_ref,
            tournament.signature,
            tournament.split(PROBE),
        )
        for attempt in range(1, MEMORY_PROCESSES + 1)
    ]
    top = max(peaks, key=lambda peak: peak.peak_mb)
    limit = tournament.runner.budgets.memory.peak_mb or 0.0
    evidence = (
        f"{top.imports_mb:.0f} MB after imports, {top.load_mb:.0f} MB after loading, {top.peak_mb:.0f} MB at the peak;"
        f" highest of {len(peaks)} processes"
    )
    low = min(peak.peak_mb for peak in peaks)
    verdict = Verdict(
        "memory.peak_mb",
        limit,
        top.peak_mb,
        low,
        top.peak_mb,
        len(peaks),
        "PASS" if top.peak_mb <= limit else "FAIL",
        evidence,
    )
    method = "VmHWM of a fresh process that imports what serving imports"
    return candidate.found(
        verdict, measured=[Measurement("memory.peak_mb", top.peak_mb, "MB", len(peaks), method, low, top.peak_mb)]
    )


def _looks(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Latency at the looks that were fixed beforehand, each in a process of its own, until every percentile is decided."""
    before = 0
    for calls in percentile.LOOKS:
        run = latency_run(tournament, candidate, f"latency up to {calls} calls", calls - before)
        before = calls
        candidate = msgspec.structs.replace(candidate, latencies_ms=(*candidate.latencies_ms, tuple(run.latencies_ms)))
        pooled = np.array([value for process in candidate.latencies_ms for value in process])
        findings = {
            key: percentile.look(pooled, limit_of(tournament, key), share, noise=tournament.noise)
            for key, share in PERCENTILES.items()
        }
        candidate = latency_found(tournament, candidate, findings, unstable=run.unstable)
        declared = [candidate.verdicts[key] for key in PERCENTILES if key in candidate.verdicts]
        if all(verdict.verdict != "INCONCLUSIVE" for verdict in declared) or candidate.out:
            break
    return candidate


def limit_of(tournament: Tournament, key: str) -> float:
    """The declared limit; without one the finding is used for its figures alone."""
    return next((limit.value for limit in limits(tournament.runner.budgets) if limit.key == key), float("inf"))


def latency_run(tournament: Tournament, candidate: Candidate, what: str, calls: int) -> latency.LatencyRun:
    """Time single calls in a fresh process; `what` tells one process's calls from another's."""
    batch = tournament.runner.budgets.latency.batch
    return tournament.runner.measured(
        f"{candidate.name}: {what}",
        latency.LatencyRun,
        (candidate.depends, tournament.source.data_digest, tournament.signature, batch, calls, what),
        latency.measure,
        candidate.model_ref,
        tournament.signature,
        tournament.split("selection"),
        batch,
        calls,
    )


def latency_found(
    tournament: Tournament, candidate: Candidate, findings: Mapping[str, Finding], *, unstable: bool
) -> Candidate:
    """The candidate with latency findings by budget key; an unstable warm-up stands in the evidence."""
    for key, finding in findings.items():
        if finding.observed is not None:
            method = f"single calls in process, {counted(candidate.model_ref.options.threads, 'thread')}"
            candidate = candidate.found(
                measured=[Measurement(key, finding.observed, "ms", finding.n, method, finding.low, finding.high)]
            )
        limit = limit_of(tournament, key)
        if np.isfinite(limit):
            verdict = finding.against(key, limit)
            if unstable:
                verdict = msgspec.structs.replace(
                    verdict, evidence=f"{verdict.evidence}; unstable: the warm-up never stood still"
                )
            candidate = candidate.found(verdict)
    return candidate
