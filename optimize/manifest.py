"""The records that stages exchange: manifest.json and what it holds.

    Blob             one file, named by its digest
    Artifact         the files and session options that serve one candidate
    Measurement      one measured quantity with its interval and its method
    Verdict          one budget judged against one measurement
    CandidateResult  all that is known of one candidate
    Manifest         one published version
    Result           one model's outcome of one export

Nothing here imports a numeric library: reading a manifest needs only msgspec. The JSON Schema in docs/manifest.schema.json is
generated from these records, and a test keeps it up to date.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from optimize.budgets import BATCH, Dim, ModelBudgets, Target
from optimize.errors import ArtifactError

MANIFEST_SCHEMA = 1
MOST_NEEDED = 10_000_000
"""The most samples or calls that an INCONCLUSIVE verdict names as settling it."""

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Status = Literal[
    "winner", "qualified", "over-budget", "inconclusive", "n/a", "failed", "screened-out", "built", "not-measured"
]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """An immutable record; each stage makes a new one."""


class Blob(Record, frozen=True):
    """A file named by the SHA-256 of its bytes."""

    name: str
    digest: Digest
    size_bytes: int


class TensorSpec(Record, frozen=True):
    """One input or output: numpy dtype name ("object" for strings), and axes where a name is a dynamic dimension.

    `pad` is the value that fills padded positions of an input; None where padding is not allowed.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    pad: float | None = None

    @property
    def batch_axis(self) -> int | None:
        """Position of the axis named `batch`, along which requests are cut and joined."""
        return self.shape.index(BATCH) if BATCH in self.shape else None


class Signature(Record, frozen=True):
    """Inputs and outputs of a model, and the declared range of each dynamic dimension."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: dict[str, Dim] = {}

    @property
    def batchable(self) -> bool:
        """Whether requests may share a batch: some input and every output has the batch axis."""
        return any(spec.batch_axis is not None for spec in self.inputs) and all(
            spec.batch_axis is not None for spec in self.outputs
        )

    @property
    def max_batch(self) -> int:
        """The most rows of one execution; 1 where requests cannot share one."""
        return self.dims[BATCH].max if self.batchable and BATCH in self.dims else 1


class SessionOptions(Record, frozen=True):
    """How a session is opened; measuring and serving use the same.

    `disabled_optimizers` are graph optimisers of onnxruntime that make this artefact slower.
    """

    target: Target = "cpu"
    threads: int = 1
    disabled_optimizers: tuple[str, ...] = ()


class Artifact(Record, frozen=True):
    """What serves one candidate: its files (the first is the model), and the options its session was measured with."""

    format: Literal["onnx", "tensorrt", "tensorrt-rtx"]
    files: tuple[Blob, ...]
    options: SessionOptions

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(blob.size_bytes for blob in self.files)


class OperatingPoint(Record, frozen=True):
    """A layout and its measured speed: `instances` sessions of `threads` threads, each at `batch` rows per call.

    Latencies are of one call, with all instances working; `n` calls were timed.
    """

    threads: int
    instances: int
    batch: int
    rows_per_s: float
    p50_ms: float
    p95_ms: float
    n: int


class Measurement(Record, frozen=True):
    """One quantity: the point estimate, its one-sided bounds if it has any, the sample size, and the method."""

    key: str
    value: float
    unit: str
    n: int
    method: str
    low: float | None = None
    high: float | None = None


class Verdict(Record, frozen=True):
    """One budget judged against what was observed.

    `needed` of an INCONCLUSIVE verdict is how many samples in all would settle it, if that is known.
    """

    budget: str
    limit: float
    observed: float | None
    low: float | None
    high: float | None
    n: int
    verdict: Outcome
    evidence: str
    needed: int | None = None


class CurvePoint(Record, frozen=True):
    """Latency of one execution of `batch` rows at the dims `shape`, which names every dynamic dimension but batch."""

    shape: dict[str, int]
    batch: int
    p50_ms: float
    p95_ms: float
    n: int


class Histogram(Record, frozen=True):
    """Latencies of single calls: `counts[i]` calls took from `edges_ms[i]` to `edges_ms[i + 1]`."""

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]


class CandidateResult(Record, frozen=True):
    """One candidate: what it is, how far it came, and every number measured of it.

    `flipped` are the first samples of the judged split whose answer changed, `lost_by_class` counts right answers that became wrong.
    """

    name: str
    precision: Literal["source", "fp32", "fp16", "int8-dynamic", "int8-static"]
    runtime: str
    status: Status
    reason: str
    verdicts: tuple[Verdict, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    artifact: Artifact | None = None
    latencies: Histogram | None = None
    flipped: tuple[int, ...] = ()
    lost_by_class: dict[str, int] = {}
    notes: tuple[str, ...] = ()

    def measured(self, key: str) -> Measurement | None:
        """The measurement of that key, if there is one."""
        return next((m for m in self.measurements if m.key == key), None)


class Golden(Record, frozen=True):
    """Inputs and the winner's answers to them when it was measured; every loader replays them.

    The blob is an .npz with arrays `in/INDEX/NAME` and `out/INDEX/NAME` for INDEX 0 .. count - 1.
    """

    blob: Blob
    count: int
    atol: float
    rtol: float


class Preprocessing(Record, frozen=True):
    """The user's code that turns raw columns into the model's inputs, as it was when the version was measured.

    `callable` is looked up in a folder that holds each of `files` under its name; installed packages are not among them. `golden`
    holds raw requests as `in/INDEX/COLUMN`, and the inputs made of them as `out/INDEX/INPUT`.
    """

    callable: str
    columns: tuple[TensorSpec, ...]
    files: tuple[Blob, ...]
    golden: Golden


class Machine(Record, frozen=True):
    """What the numbers were measured on."""

    cpu: str
    cores: int
    memory_mb: int
    instruction_sets: tuple[str, ...]
    devices: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Twelve digits that are the same on machines with the same processor, cores, instructions and devices."""
        parts = (self.cpu, str(self.cores), *self.instruction_sets, *self.devices)
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]


class Manifest(Record, frozen=True):
    """One published version of one model: what is served, and the evidence for it."""

    schema: Literal[1]
    model: str
    version: int
    created: str
    candidate: str
    artifact: Artifact
    signature: Signature
    budgets: ModelBudgets
    verdicts: tuple[Verdict, ...]
    curve: tuple[CurvePoint, ...]
    candidates: tuple[CandidateResult, ...]
    golden: Golden
    source_digest: Digest
    data_digest: Digest
    tools: dict[str, str]
    machine: Machine
    online: OperatingPoint | None = None
    bulk: OperatingPoint | None = None
    preprocessing: Preprocessing | None = None

    @property
    def digest(self) -> str:
        """Digest of the model file, which names what is served."""
        return self.artifact.files[0].digest

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Every file that this version needs."""
        others = (*self.preprocessing.files, self.preprocessing.golden.blob) if self.preprocessing else ()
        return (*self.artifact.files, self.golden.blob, *others)


class Winner(Record, frozen=True):
    """The published candidate, its version and the path of its manifest; these two are None if a run publishes nothing."""

    candidate: str
    precision: str
    runtime: str
    version: int | None
    path: str | None


class StageTime(Record, frozen=True):
    """One step of a run: how long it took, and whether it came from the cache."""

    stage: str
    seconds: float
    cached: bool


class Result(Record, frozen=True):
    """One model's outcome of one export: all that a report needs; `created` is when it ended, in ISO 8601."""

    name: str
    exit: int
    winner: Winner | None
    candidates: tuple[CandidateResult, ...]
    budgets: ModelBudgets
    release: bool
    reason: str
    stages: tuple[StageTime, ...] = ()
    machine: Machine | None = None
    tools: dict[str, str] = {}
    created: str = ""


def counted(number: int, noun: str, several: str = "") -> str:
    """A number of things in words, such as 1 file and 2 files; `several` is an irregular plural."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def about(needed: int) -> str:
    """A number of samples that would settle a verdict, in words; very large ones are not spelled out."""
    return f"about {needed:,}" if needed <= MOST_NEEDED else f"more than {MOST_NEEDED:,}"


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode(record: Manifest | Result) -> bytes:
    """The record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def decode(data: bytes, origin: str) -> Manifest:
    """Read a manifest; `origin` names it in the error.

    Raises:
        ArtifactError: The text is not a manifest of this schema.
    """
    try:
        return msgspec.json.decode(_with_candidates(data), type=Manifest)
    except msgspec.DecodeError as error:
        raise ArtifactError(
            f"{origin}: not a manifest of schema {MANIFEST_SCHEMA} ({error}); publish the version again with `optimize export`"
        ) from None


def _with_candidates(data: bytes) -> bytes:
    """A manifest's text with the key `candidates`, which earlier releases call `trials`."""
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    if "trials" not in fields or "candidates" in fields:
        return data
    fields["candidates"] = fields.pop("trials")
    return msgspec.json.encode(fields)


def decode_result(data: bytes, origin: str) -> Result:
    """Read the result of an export; `origin` names it in the error.

    Raises:
        ArtifactError: The text is not a result of this release.
    """
    try:
        return msgspec.json.decode(data, type=Result)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{origin}: not a result of this release ({error}); run `optimize export` again") from None


def json_schema() -> bytes:
    """JSON Schema of manifest.json, indented."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Manifest)}
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"
