"""One candidate, and what was found of it so far."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from optimize.execution.keys import key_of
from optimize.manifest import (
    Artifact,
    Blob,
    CandidateResult,
    CurvePoint,
    Histogram,
    Measurement,
    SessionOptions,
    Status,
    Verdict,
)
from optimize.source.model_ref import ModelRef
from optimize.validate.accuracy import Accuracy

_HISTOGRAM_BINS = 40


class Candidate(Struct, frozen=True):
    """What a candidate is, and what was found of it; each stage reads one and returns a new one.

    A `published` one is judged with the threads that serve it. `stopped` and `failed` say why it left, and are empty otherwise.
    """

    name: str
    precision: str
    runtime: str
    model_ref: ModelRef
    artifact: Artifact | None = None
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    verdicts: Mapping[str, Verdict] = {}
    measurements: Mapping[str, Measurement] = {}
    latencies_ms: tuple[tuple[float, ...], ...] = ()
    rows_per_s: tuple[float, ...] = ()
    accuracy: Accuracy | None = None
    curve: tuple[CurvePoint, ...] = ()
    published: bool = False
    load_tested: bool = False
    stopped: str = ""
    failed: str = ""

    @property
    def digest(self) -> str:
        """Digest of what its model holds."""
        return self.model_ref.digest

    @property
    def threads(self) -> int:
        """The threads of its session."""
        return self.model_ref.options.threads

    @property
    def out(self) -> bool:
        """Whether it stopped, or is over some budget already."""
        return bool(self.failed or self.stopped) or any(verdict.verdict == "FAIL" for verdict in self.verdicts.values())

    def with_options(self, options: SessionOptions) -> "Candidate":
        """The candidate opened with other options, in its artefact's record as well."""
        artifact = None if self.artifact is None else msgspec.structs.replace(self.artifact, options=options)
        model_ref = msgspec.structs.replace(self.model_ref, options=options)
        return msgspec.structs.replace(self, model_ref=model_ref, artifact=artifact)

    def with_threads(self, threads: int) -> "Candidate":
        """The candidate opened with another number of threads."""
        return self.with_options(msgspec.structs.replace(self.model_ref.options, threads=threads))

    def judged(self, *verdicts: Verdict) -> "Candidate":
        """The candidate with more verdicts; a later one of a budget replaces an earlier one."""
        return msgspec.structs.replace(
            self, verdicts={**self.verdicts, **{verdict.budget: verdict for verdict in verdicts}}
        )

    def measured(self, *measurements: Measurement) -> "Candidate":
        """The candidate with more measurements; a later one of a key replaces an earlier one."""
        found = {measurement.key: measurement for measurement in measurements}
        return msgspec.structs.replace(self, measurements={**self.measurements, **found})

    def result(self, status: Status = "not-measured", reason: str = "") -> CandidateResult:
        """The record of what was found; one that failed or was stopped has that status instead of the given one."""
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


def digest_of_files(files: Sequence[Blob]) -> str:
    """One digest of an artefact's files: a graph whose weights lie in other files says nothing about them."""
    return files[0].digest if len(files) == 1 else key_of(*((blob.name, blob.digest) for blob in files))


def _histogram(runs: Sequence[Sequence[float]]) -> Histogram | None:
    pooled = np.array([value for run in runs for value in run])
    if not pooled.size:
        return None
    fastest, tail, slowest = pooled.min() * 0.999, np.quantile(pooled, 0.99), pooled.max() * 1.001
    # Most bins are for the bulk of the calls; otherwise one slow call would leave all others in two or three.
    bulk = np.geomspace(fastest, tail, _HISTOGRAM_BINS * 3 // 4 + 1)
    edges = np.unique(np.concatenate([bulk, np.geomspace(tail, slowest, _HISTOGRAM_BINS // 4 + 1)]))
    counts, _ = np.histogram(pooled, bins=edges)
    return Histogram(tuple(map(float, edges)), tuple(map(int, counts)))
