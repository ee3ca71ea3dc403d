"""A world for an export in which no process starts: every stage answers at once with what the test says of a candidate.

`FakeStages` stands in for `optimize.execution.isolation.Isolated`. A stage reads which candidate it is about from the files that
an earlier stage wrote, as a real stage does: a built model names its candidate in its first line. What judges (statistics, choice,
cache, registry, reports) is the product's own. `_stages` is the one place that names the product's stage functions.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from optimize.budgets import Dim
from optimize.convert import baseline, candidate_build
from optimize.convert.candidate_specs import CandidateSpec
from optimize.errors import CandidateError
from optimize.execution.environment import Clock, Environment
from optimize.execution.isolation import Isolated
from optimize.manifest import CurvePoint, Machine, OperatingPoint, Signature, TensorSpec, digest_of
from optimize.measure import curve, golden, interleaved, latency, memory, operating, screen, throughput
from optimize.source import loading, preprocess_package
from optimize.source.model_ref import ModelRef
from optimize.source.samples import Batch
from optimize.source.split_file import store_split
from optimize.validate import accuracy, answers

MAX_BATCH, CLASSES = 8, 3
SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 4)),),
    (TensorSpec("logits", "float32", ("batch", CLASSES)),),
    {"batch": Dim(1, 1, MAX_BATCH)},
)
ROWS = {"calibration": 50, "selection": 1000, "confirmation": 1000}
PARTS = {loading.SCREEN: 256, loading.PROBE: 8}
STAGE_S = 1.5
MACHINE = Machine("Test CPU", 2, 8000, ("avx2",))
TOOLS = {"proveserve": "1.0", "onnxruntime": "2.0"}


@dataclass(frozen=True)
class Candidate:
    """What the stages will find of one candidate.

    A call of n rows takes `ms + (n - 1) * row_ms` on one thread and `threads_gain` times less on several; `slow` of the single
    calls take `slow_ms`. `wrong` is the share of rows that the source answers rightly and this one does not, `mixed` the share whose
    answer depends on its batch. Of a load test's requests `lost` never come back. `breaks` names what it breaks at: words that the
    call's description holds (such as "screen" or "answers confirmation"), and the error or its text.
    """

    ms: float = 1.0
    row_ms: float = 0.5
    threads_gain: float = 1.0
    slow: float = 0.0
    slow_ms: float = 100.0
    unstable: bool = False
    wrong: float = 0.0
    mixed: float = 0.0
    peak_mb: float = 100.0
    size_bytes: int = 1000
    load_ms: float = 2.0
    lost: int = 0
    capacity_qps: float = 300.0
    breaks: Mapping[str, str | Exception] = field(default_factory=dict)

    def call_ms(self, rows: int, threads: int = 1) -> float:
        return (self.ms + (rows - 1) * self.row_ms) / (self.threads_gain if threads > 1 else 1.0)


@dataclass(frozen=True)
class Call:
    """One stage that ran, in words: its name, the candidates, and what else distinguishes it from other calls of the same stage."""

    stage: str
    names: tuple[str, ...]
    detail: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.stage, *self.names, *self.detail))


class FakeClock(Clock):
    """Advances only while stages run."""

    def __init__(self) -> None:
        self.seconds, self.moment = 0.0, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def elapsed_s(self) -> float:
        return self.seconds


class FakeStages(Isolated):
    """The stages of every candidate, which `found` names by precision; the source is `source`.

    `clashes` are pairs that break when they are timed side by side, `noise` moves two in three blocks of a comparison. For a test to
    change are the digests of the user's files (`source`, `data`, `metric`), whether samples are `labelled`, what the source is
    converted to (`graph`, `weights` in a file of their own, `signature`), and the `code` of its `preprocess`.
    """

    def __init__(
        self,
        found: Mapping[str, Candidate],
        *,
        clashes: Iterable[frozenset[str]] = (),
        noise: float = 0.0,
        rows: Mapping[str, int] = ROWS,
    ) -> None:
        super().__init__()
        self.found, self.clashes, self.noise, self.rows = dict(found), set(clashes), noise, dict(rows)
        self.source, self.data, self.metric, self.graph, self.signature = "5" * 64, "d" * 64, "", "graph", SIGNATURE
        self.weights, self.labelled = "", True
        self.code = "def prepare(columns): return columns\n"
        self.calls: list[Call] = []
        self.clock = FakeClock()
        self.allowed_s: list[float] = []
        self._stages = _stages(self)

    def allowing(self, more_s: float) -> "FakeStages":
        self.allowed_s.append(more_s)
        return self

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.clock.seconds += STAGE_S
        stage, answer = self._stages[function]
        call = Call(stage, tuple(_names(args)), tuple(_details(stage, args, kwargs)))
        self.calls.append(call)
        if call.stage == "comparison" and frozenset(call.names) in self.clashes:
            raise CandidateError("they clash")
        for name in call.names or ("source",):
            for words, error in self.of(name).breaks.items():
                if set(words.split()) <= set(str(call).split()):
                    raise error if isinstance(error, Exception) else CandidateError(error)
        return answer(*args, **kwargs)

    def of(self, name: str) -> Candidate:
        return self.found.get(name, Candidate())

    def environment(self, **changes: Any) -> Environment:
        return Environment(
            isolated=self,
            machine=changes.get("machine", MACHINE),
            tools=changes.get("tools", TOOLS),
            providers=("CPUExecutionProvider",),
            clock=self.clock,
        )

    # What each stage answers.

    def _read(self, budgets: Any, _base: Path, folder: Path) -> loading.Source:
        for name, rows in (self.rows | PARTS).items() if self.rows else ():
            store_split(folder / f"{name}.npz", [_split(rows, name + self.data, labelled=self.labelled)])
        if budgets.preprocess is not None:
            store_split(folder / f"{loading.RAW}.npz", [Batch({"text": np.arange(8) + _offset(self.data)}, None)])
        code = "" if budgets.preprocess is None else hashlib.sha256(self.code.encode()).hexdigest()
        return loading.Source(self.source, self.data, self.rows, "torch-cpu", self.metric, code)

    def _convert(self, *args: Any) -> baseline.Conversion:
        (args[-1] / baseline.BASELINE).write_text(self.graph)
        if self.weights:
            (args[-1] / f"{baseline.BASELINE}.data").write_text(self.weights)
        return baseline.Conversion(self.signature, 1e-6)

    def _take(self, *args: Any) -> preprocess_package.Taken:
        folder: Path = args[-1]
        code = folder / preprocess_package.CODE
        code.mkdir()
        (code / "prep.py").write_text(self.code)
        (folder / preprocess_package.GOLDEN).write_text("raw requests")
        return preprocess_package.Taken(("prep.py",), (TensorSpec("text", "object", ("batch",)),), 8)

    def _build(self, spec: CandidateSpec, baseline: Path, *others: Any) -> candidate_build.BuiltCandidate:
        folder, wanted = others[-1], self.of(spec.precision)
        head = f"{spec.precision}\n{digest_of(baseline)}\n".encode()
        (folder / "model.onnx").write_bytes(head.ljust(wanted.size_bytes, b"."))
        return candidate_build.BuiltCandidate(
            ("model.onnx",), 0 if spec.precision == "fp32" else 3, ("made by a test",)
        )

    def _screen(self, model_ref: ModelRef, _signature: Signature, _split: Path, batch: int) -> screen.Screen:
        return screen.Screen(self._of(model_ref).call_ms(batch, model_ref.options.threads), 20)

    def _answers(
        self, model_ref: ModelRef, _signature: Signature, split: Path, target: Path, *, row_by_row: bool = False
    ) -> int:
        wanted = self._of(model_ref)
        rows = (self.rows | PARTS)[split.stem]
        labels = _labels(rows)
        spoilt = wanted.wrong + (wanted.mixed if row_by_row else 0.0)
        labels[: round(spoilt * rows)] = (labels[: round(spoilt * rows)] + 1) % CLASSES
        logits = np.eye(CLASSES, dtype=np.float32)[labels]
        np.savez(target, **{"0/logits": logits, "0/candidate": np.array(_name(model_ref))})
        return rows

    def _memory(self, model_ref: ModelRef, *_: Any) -> memory.Peak:
        """The highest peak comes second, so that neither the first nor the last of several is the highest."""
        again = sum(call.stage == "memory" and call.names == (_name(model_ref),) for call in self.calls)
        return memory.Peak(40.0, 60.0, self._of(model_ref).peak_mb - (1.0, 0.0, 2.0)[(again - 1) % 3])

    def _latency(
        self, model_ref: ModelRef, _signature: Signature, _split: Path, batch: int, calls: int
    ) -> latency.LatencyRun:
        wanted = self._of(model_ref)
        return latency.LatencyRun(
            _latencies(wanted, wanted.call_ms(batch, model_ref.options.threads), calls), wanted.unstable
        )

    def _end_to_end(self, model_ref: ModelRef, _spec: str, _base: Path, _raw: Path, calls: int) -> latency.LatencyRun:
        wanted = self._of(model_ref)
        return latency.LatencyRun(_latencies(wanted, wanted.call_ms(1) + 1.0, calls), wanted.unstable)

    def _comparison(
        self, a: ModelRef, b: ModelRef, _signature: Signature, _split: Path, batch: int | None
    ) -> interleaved.InterleavedTiming:
        rows = batch or MAX_BATCH
        a_ms, b_ms = (self._of(who).call_ms(rows, who.options.threads) for who in (a, b))
        moved = [1.0 + (self.noise, 0.0, -self.noise)[pair % 3] for pair in range(20)]
        return interleaved.InterleavedTiming([[a_ms] * 5] * 20, [[b_ms * by] * 5 for by in moved], rows, rows)

    def _curve(self, model_ref: ModelRef, *_: Any) -> list[CurvePoint]:
        points = [(rows, self._of(model_ref).call_ms(rows)) for rows in (1, 2, 4, 8)]
        return [CurvePoint({}, rows, ms, 1.25 * ms, 200) for rows, ms in points]

    def _layouts(self, model_ref: ModelRef, _signature: Signature, _split: Path, cores: int) -> list[OperatingPoint]:
        found = []
        for threads, instances in operating.layouts(cores, model_ref.options.threads):
            for rows in (1, 2, 4, 8):
                ms = self._of(model_ref).call_ms(rows, threads)
                found.append(OperatingPoint(threads, instances, rows, 1e3 * rows * instances / ms, ms, 1.25 * ms, 100))
        return found

    def _load(self, service: throughput.Service, _split: Path, qps: float, calls: int) -> throughput.Load:
        wanted = self._of(service.model_ref)
        answered: list[float | None] = [wanted.load_ms] * (calls - wanted.lost)
        return throughput.Load([None] * wanted.lost + answered, qps * (calls - wanted.lost) / calls)

    def _capacity(self, service: throughput.Service, *_: Any) -> throughput.Capacity:
        return throughput.Capacity(self._of(service.model_ref).capacity_qps, 9)

    def _golden(self, model_ref: ModelRef, *others: Any) -> golden.Recorded:
        (others[-1] / golden.GOLDEN).write_text(f"answers of {_name(model_ref)}")
        return golden.Recorded(8, 1e-3, 1e-3)

    def _of(self, model_ref: ModelRef) -> Candidate:
        return self.of(_name(model_ref))


def _stages(fake: FakeStages) -> dict[Callable[..., Any], tuple[str, Callable[..., Any]]]:
    """What a test calls each of the product's stage functions, and what answers in its place; pure ones answer themselves."""
    return {
        loading.read: ("read", fake._read),
        baseline.convert: ("convert", fake._convert),
        preprocess_package.take: ("code", fake._take),
        candidate_build.build: ("build", fake._build),
        screen.measure: ("screen", fake._screen),
        answers.record: ("answers", fake._answers),
        accuracy.judge: ("judge", accuracy.judge),
        accuracy.changed: ("changed", accuracy.changed),
        memory.measure: ("memory", fake._memory),
        latency.measure: ("latency", fake._latency),
        latency.measure_end_to_end: ("end-to-end", fake._end_to_end),
        interleaved.time_interleaved: ("comparison", fake._comparison),
        curve.measure: ("curve", fake._curve),
        operating.measure: ("layouts", fake._layouts),
        throughput.measure: ("load", fake._load),
        throughput.capacity: ("capacity", fake._capacity),
        golden.record: ("golden", fake._golden),
    }


def _name(model_ref: ModelRef) -> str:
    """The precision that a model file names in its first line; the source has no file."""
    return "source" if model_ref.path is None else model_ref.path.read_bytes().split(b"\n", 1)[0].decode()


def _names(args: tuple[Any, ...]) -> Iterator[str]:
    """The candidates that a stage's arguments speak of."""
    yield from (arg.precision for arg in args if isinstance(arg, CandidateSpec))
    yield from map(_name, _subjects(args))
    recorded = [arg for arg in args if isinstance(arg, Path) and arg.name == "answers.npz" and arg.exists()]
    if recorded:
        with np.load(recorded[-1]) as archive:  # the candidate's own answers come last
            yield str(archive["0/candidate"])


def _subjects(args: tuple[Any, ...]) -> list[ModelRef]:
    served = [arg.model_ref for arg in args if isinstance(arg, throughput.Service)]
    return [arg for arg in args if isinstance(arg, ModelRef)] + served


def _details(stage: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[str]:
    if stage in ("answers", "judge"):
        yield next(arg.stem for arg in args if isinstance(arg, Path) and arg.suffix == ".npz")
    if stage in ("latency", "end-to-end"):
        yield str(args[-1])
    if stage == "comparison":
        yield "best-batch" if args[-1] is None else f"batch={args[-1]}"
    if kwargs.get("row_by_row"):
        yield "alone"
    threads = [str(ref.options.threads) for ref in _subjects(args)]
    if set(threads) - {"1"} or stage == "screen":
        yield f"threads={'-'.join(threads)}"


def _labels(rows: int) -> np.ndarray:
    return np.arange(rows) % CLASSES


def _offset(contents: str) -> int:
    return int(hashlib.sha256(contents.encode()).hexdigest()[:4], 16)


def _split(rows: int, contents: str, *, labelled: bool) -> Batch:
    x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4) + _offset(contents)
    return Batch({"x": x}, _labels(rows) if labelled else None)


def _latencies(wanted: Candidate, ms: float, calls: int) -> list[float]:
    """Calls within 5 % of their median but for the slow ones, in an order in which neighbours are not correlated."""
    found = ms * np.linspace(0.95, 1.05, calls)
    found[: round(wanted.slow * calls)] = wanted.slow_ms
    return [round(float(value), 6) for value in np.random.default_rng(7).permutation(found)]
