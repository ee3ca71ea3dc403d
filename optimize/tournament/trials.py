"""What is known of one candidate while it goes through its stages, cheap ones first.

    enter     build the artefact
    screen    size, sanity, 20 calls, 256 samples: whoever fails hard stops here, with the reason
    measure   memory, every sample of the selection split, latency in up to three looks

Each stage reads an entrant and returns a new one; :mod:`optimize.tournament.finals` has those that follow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from optimize.budgets import limits
from optimize.convert import candidate_specs
from optimize.convert.candidate_specs import Build, Cell
from optimize.execution.stage_runner import Bench, stored
from optimize.manifest import (
    Artifact,
    Blob,
    CurvePoint,
    Histogram,
    Measurement,
    SessionOptions,
    Signature,
    Status,
    Trial,
    Verdict,
    counted,
    digest_of,
)
from optimize.measure import latency, memory, screen
from optimize.source.loading import PROBE, SCREEN, Reading
from optimize.source.model_ref import Subject
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


class Ground(Struct, frozen=True):
    """What the trials of one model stand on.

    `noise` is the share by which an A/A run of the baseline differed; `portable` is where the code of `preprocess` was taken to.
    """

    bench: Bench
    reading: Reading
    signature: Signature
    splits: Path
    baseline: Path
    baseline_digest: str
    portable: Path | None = None
    noise: float = 0.0

    def subject(self, options: SessionOptions, path: Path | None = None) -> Subject:
        """An artefact's file, or the source model."""
        return Subject(self.bench.budgets, self.bench.base, options, path)

    def split(self, name: str) -> Path:
        """Where the samples of a split are stored."""
        return self.splits / f"{name}.npz"

    @property
    def has_samples(self) -> bool:
        """Whether there is anything to judge accuracy on."""
        return bool(self.reading.rows)


class Entrant(Struct, frozen=True):
    """One candidate on its way: what it is, and what was found of it so far.

    A `settled` one is published already, and is judged with the threads that serve it.
    """

    name: str
    precision: str
    runtime: str
    subject: Subject
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
        return (self.digest, self.subject.options)

    def with_options(self, options: SessionOptions) -> "Entrant":
        """The entrant opened otherwise, in its artefact's record as well."""
        artifact = None if self.artifact is None else msgspec.structs.replace(self.artifact, options=options)
        return msgspec.structs.replace(
            self, subject=msgspec.structs.replace(self.subject, options=options), artifact=artifact
        )

    @property
    def out(self) -> bool:
        """Whether it stopped, or has lost some budget already."""
        return bool(self.failed or self.stopped) or any(verdict.verdict == "FAIL" for verdict in self.verdicts.values())

    def found(self, *verdicts: Verdict, measured: Sequence[Measurement] = ()) -> "Entrant":
        """The entrant with more verdicts and measurements; a later one of a key takes the place of an earlier."""
        return msgspec.structs.replace(
            self,
            verdicts={**self.verdicts, **{verdict.budget: verdict for verdict in verdicts}},
            measurements={**self.measurements, **{measurement.key: measurement for measurement in measured}},
        )

    def trial(self, status: Status = "not-measured", reason: str = "") -> Trial:
        """The record of what was found; a candidate that failed or was stopped says so instead of the given status."""
        if self.failed:
            status, reason = "failed", self.failed
        elif self.stopped:
            status, reason = "screened-out", self.stopped
        return Trial(
            name=self.name,
            precision=self.precision,  # type: ignore[arg-type] # a cell's precision, or "source"
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


def source(ground: Ground, options: SessionOptions) -> Entrant:
    """The source model as an entrant: the baseline of every comparison, never published."""
    runtime = ground.reading.runtime
    subject = ground.subject(options)
    return Entrant(f"source@{runtime}", candidate_specs.SOURCE, runtime, subject, ground.reading.source_digest)


def enter(ground: Ground, cell: Cell, options: SessionOptions) -> Entrant:
    """Build a cell's artefact.

    Raises:
        CandidateError: It cannot be built; the message is the cause.
    """
    bench, calibration = ground.bench, ground.split("calibration")
    capabilities = bench.budgets.compute_capabilities if cell.engine else ()
    depends = (ground.baseline_digest, ground.reading.data_digest, cell, ground.signature, capabilities)
    arguments = (cell, ground.baseline, calibration, ground.signature, capabilities)
    folder = bench.build(f"{cell.name}: build", depends, candidate_specs.build, *arguments)
    record = stored(folder, Build)
    files = tuple(Blob(name, digest_of(folder / name), (folder / name).stat().st_size) for name in record.files)
    changed = (f"{counted(record.changed, 'node')} changed precision",) if record.changed else ()
    return Entrant(
        name=cell.name,
        precision=cell.precision,
        runtime=cell.runtime,
        subject=ground.subject(options, folder / record.files[0]),
        digest=files[0].digest,
        artifact=Artifact(_format(cell), files, options),
        folder=folder,
        notes=changed + record.notes,
    )


def _format(cell: Cell) -> Literal["onnx", "tensorrt", "tensorrt-rtx"]:
    if cell.target == "tensorrt":
        return "tensorrt"
    return "tensorrt-rtx" if cell.target == "tensorrt-rtx" else "onnx"


def screened(ground: Ground, entrant: Entrant, baseline: Entrant) -> Entrant:
    """Size, sanity, 20 calls and 256 samples.

    Raises:
        CandidateError: It does not open, fails, or answers NaN.
    """
    entrant = _sized(ground, entrant)
    if entrant.out:
        return entrant
    budgets = ground.bench.budgets
    entrant, found = _with_threads(ground, entrant)
    note = Measurement("screen.p50_ms", found.median_ms, "ms", found.calls, "median of 20 calls without a long warm-up")
    entrant = entrant.found(measured=[note])
    for limit in limits(budgets):
        if limit.key in PERCENTILES and found.median_ms > HOPELESS * limit.value:
            reason = f"median {found.median_ms:.3g} ms of {found.calls} calls, over {HOPELESS:g} times {limit.key} = {limit.value:g}"
            return msgspec.structs.replace(entrant, stopped=reason)
    if not ground.has_samples or entrant.precision == candidate_specs.SOURCE:
        return entrant
    entrant = judged_on(ground, entrant, baseline, SCREEN)
    lost = next((verdict for verdict in entrant.verdicts.values() if verdict.verdict == "FAIL" and verdict.n), None)
    return (
        msgspec.structs.replace(entrant, stopped=f"{lost.budget} in the screen: {lost.evidence}") if lost else entrant
    )


def _with_threads(ground: Ground, entrant: Entrant) -> tuple[Entrant, screen.Screen]:
    """The entrant with the fewest threads that give its latency budgets room, else with the fastest; and its screen."""
    found: dict[int, screen.Screen] = {}
    for threads in _thread_counts(ground, entrant):
        trial = entrant.with_options(msgspec.structs.replace(entrant.subject.options, threads=threads))
        depends = (trial.depends, ground.reading.data_digest, ground.signature, ground.bench.budgets.latency.batch)
        arguments = (trial.subject, ground.signature, ground.split("selection"), ground.bench.budgets.latency.batch)
        what = f"{entrant.name}: screen, {threads} threads"
        found[threads] = ground.bench.measured(what, screen.Screen, depends, screen.measure, *arguments)
        if found[threads].median_ms <= _ROOMY_SHARE * _tightest_ms(ground):
            break
    chosen = min(found, key=lambda threads: found[threads].median_ms * (1 if threads == 1 else 1 + _WORTH_MORE_THREADS))
    if found[max(found)].median_ms <= _ROOMY_SHARE * _tightest_ms(ground):
        chosen = max(found)
    return entrant.with_options(msgspec.structs.replace(entrant.subject.options, threads=chosen)), found[chosen]


def _thread_counts(ground: Ground, entrant: Entrant) -> list[int]:
    """1, 2, 4 ... up to the cores; the source model stays at 1, and is measured again beside each candidate's own count."""
    if entrant.settled:
        return [entrant.subject.options.threads]
    if entrant.precision == candidate_specs.SOURCE or not np.isfinite(_tightest_ms(ground)):
        return [1]
    return [count for count in (2**power for power in range(10)) if count <= ground.bench.machine.cores]


def _tightest_ms(ground: Ground) -> float:
    return min(limit_of(ground, key) for key in PERCENTILES)


def _sized(ground: Ground, entrant: Entrant) -> Entrant:
    if entrant.artifact is None:
        return entrant
    mb = entrant.artifact.size_bytes / 1e6
    measured = [Measurement("size.mb", mb, "MB", 1, "bytes of the artefact's files")]
    limit = ground.bench.budgets.size.mb
    if limit is None:
        return entrant.found(measured=measured)
    evidence = f"{entrant.artifact.size_bytes:,} bytes in {counted(len(entrant.artifact.files), 'file')}"
    verdict = Verdict("size.mb", limit, mb, mb, mb, 0, "PASS" if mb <= limit else "FAIL", evidence)
    return entrant.found(verdict, measured=measured)


def judged_on(ground: Ground, entrant: Entrant, baseline: Entrant, split: str) -> Entrant:
    """Accuracy and agreement on one split, both models' answers being recorded once."""
    bench, budget = ground.bench, ground.bench.budgets.accuracy
    # The source only gives the answers to compare with here: nobody asks how fast, so it may take every core.
    baseline = baseline.with_options(SessionOptions("cpu", bench.machine.cores))
    files = [
        bench.answers(
            f"{who.name}: answers to {split}",
            (who.depends, ground.reading.data_digest, split, ground.signature),
            answers.record,
            who.subject,
            ground.signature,
            ground.split(split),
        )
        for who in (baseline, entrant)
    ]
    found = bench.measured(
        f"{entrant.name}: accuracy on {split}",
        Accuracy,
        (
            baseline.depends,
            entrant.depends,
            ground.reading.data_digest,
            ground.reading.metric_digest,
            split,
            ground.signature,
            budget,
        ),
        accuracy.judge,
        budget,
        bench.base,
        ground.signature,
        ground.split(split),
        *files,
    )
    entrant = msgspec.structs.replace(entrant, accuracy=found)
    method = f"paired with the source model's answers on the {split} split"
    pairs = [
        ("accuracy.max_drop", found.drop, budget.max_drop),
        ("accuracy.min_agreement", found.agreement, budget.min_agreement),
    ]
    for key, finding, limit in pairs:
        if finding is None or finding.observed is None:
            continue
        low, high = finding.low, finding.high
        entrant = entrant.found(measured=[Measurement(key, finding.observed, "share", finding.n, method, low, high)])
        if limit is not None:
            entrant = entrant.found(finding.against(key, limit))
    return entrant


def measured(ground: Ground, entrant: Entrant, baseline: Entrant) -> Entrant:
    """Memory, the whole selection split, and latency in up to three looks; stops at the first lost budget.

    Raises:
        CandidateError: It fails on some sample, hangs or dies.
    """
    if ground.bench.budgets.memory.peak_mb is not None and entrant.artifact is not None:
        entrant = _memory(ground, entrant)
    if ground.has_samples and entrant.precision != candidate_specs.SOURCE and not entrant.out:
        entrant = judged_on(ground, entrant, baseline, "selection")
    return entrant if entrant.out else _looks(ground, entrant)


def _memory(ground: Ground, entrant: Entrant) -> Entrant:
    peaks = [
        ground.bench.measured(
            f"{entrant.name}: memory {attempt}",
            memory.Peak,
            (entrant.depends, ground.reading.data_digest, ground.signature, attempt),
            memory.measure,
            entrant.subject,
            ground.signature,
            ground.split(PROBE),
        )
        for attempt in range(1, MEMORY_PROCESSES + 1)
    ]
    top = max(peaks, key=lambda peak: peak.peak_mb)
    limit = ground.bench.budgets.memory.peak_mb or 0.0
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
    return entrant.found(
        verdict, measured=[Measurement("memory.peak_mb", top.peak_mb, "MB", len(peaks), method, low, top.peak_mb)]
    )


def _looks(ground: Ground, entrant: Entrant) -> Entrant:
    """Latency at the looks that were fixed beforehand, each in a process of its own, until every percentile is decided."""
    before = 0
    for calls in percentile.LOOKS:
        run = latency_run(ground, entrant, f"latency up to {calls} calls", calls - before)
        before = calls
        entrant = msgspec.structs.replace(entrant, latencies_ms=(*entrant.latencies_ms, tuple(run.latencies_ms)))
        pooled = np.array([value for process in entrant.latencies_ms for value in process])
        findings = {
            key: percentile.look(pooled, limit_of(ground, key), share, noise=ground.noise)
            for key, share in PERCENTILES.items()
        }
        entrant = latency_found(ground, entrant, findings, unstable=run.unstable)
        declared = [entrant.verdicts[key] for key in PERCENTILES if key in entrant.verdicts]
        if all(verdict.verdict != "INCONCLUSIVE" for verdict in declared) or entrant.out:
            break
    return entrant


def limit_of(ground: Ground, key: str) -> float:
    """The declared limit; without one the finding is used for its figures alone."""
    return next((limit.value for limit in limits(ground.bench.budgets) if limit.key == key), float("inf"))


def latency_run(ground: Ground, entrant: Entrant, what: str, calls: int) -> latency.LatencyRun:
    """Time single calls in a fresh process; `what` tells one process's calls from another's."""
    batch = ground.bench.budgets.latency.batch
    return ground.bench.measured(
        f"{entrant.name}: {what}",
        latency.LatencyRun,
        (entrant.depends, ground.reading.data_digest, ground.signature, batch, calls, what),
        latency.measure,
        entrant.subject,
        ground.signature,
        ground.split("selection"),
        batch,
        calls,
    )


def latency_found(ground: Ground, entrant: Entrant, findings: Mapping[str, Finding], *, unstable: bool) -> Entrant:
    """The entrant with latency findings by budget key; an unstable warm-up stands in the evidence."""
    for key, finding in findings.items():
        if finding.observed is not None:
            method = f"single calls in process, {counted(entrant.subject.options.threads, 'thread')}"
            entrant = entrant.found(
                measured=[Measurement(key, finding.observed, "ms", finding.n, method, finding.low, finding.high)]
            )
        limit = limit_of(ground, key)
        if np.isfinite(limit):
            verdict = finding.against(key, limit)
            if unstable:
                verdict = msgspec.structs.replace(
                    verdict, evidence=f"{verdict.evidence}; unstable: the warm-up never stood still"
                )
            entrant = entrant.found(verdict)
    return entrant
