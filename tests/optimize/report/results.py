"""Hand-made results of exports, of every kind that a report must tell."""

import itertools
import math
import random
from typing import Any

import msgspec

from optimize.budgets import (
    AccuracyBudget,
    CostBudget,
    LatencyBudget,
    MemoryBudget,
    ModelBudgets,
    SizeBudget,
    SpeedBudget,
)
from optimize.manifest import (
    CandidateResult,
    CurvePoint,
    Histogram,
    Machine,
    Measurement,
    OperatingPoint,
    Result,
    StageTime,
    Verdict,
    Winner,
)
from optimize.report import Served

ONLINE = OperatingPoint(1, 2, 8, 312.4, 51.2, 60.7, 40)
BULK = OperatingPoint(2, 1, 32, 1340.0, 23.9, 29.0, 64)
MACHINE = Machine("A processor", 2, 16_000, ("avx2", "avx512_vnni"), ())
TOOLS = {"proveserve": "0.1.0", "onnxruntime": "1.31.1", "torch": "2.13.0"}
BUDGETS = ModelBudgets(
    source="models.py:model",
    data="models.py:samples",
    objective="throughput",
    accuracy=AccuracyBudget(max_drop=0.02, min_agreement=0.95),
    latency=LatencyBudget(p99_ms=40.0),
    memory=MemoryBudget(peak_mb=900),
    size=SizeBudget(mb=40),
    speed=SpeedBudget(min_speedup=1.8),
    cost=CostBudget(per_hour={"cpu": 0.04}, max_per_million=0.2),
)
LIMITS = {
    "accuracy.max_drop": 0.02,
    "accuracy.min_agreement": 0.95,
    "latency.p99_ms": 40.0,
    "memory.peak_mb": 900.0,
    "size.mb": 40.0,
    "speed.min_speedup": 1.8,
    "cost.max_per_million": 0.2,
}
HIGHER = ("accuracy.min_agreement", "speed.min_speedup")
UNITS = {"latency.p99_ms": "ms", "memory.peak_mb": "MB", "size.mb": "MB", "speed.min_speedup": "times"}


def histogram(median_ms: float, calls: int = 2000, seed: int = 1) -> Histogram:
    """A log-normal-looking distribution with a tail, in 40 bins."""
    draw = random.Random(seed)
    values = sorted(
        median_ms * math.exp(draw.gauss(0, 0.12) + (0.5 if draw.random() < 0.02 else 0)) for _ in range(calls)
    )
    low, high = values[0] * 0.999, values[-1] * 1.001
    edges = [low * (high / low) ** (i / 40) for i in range(41)]
    counts = [sum(a <= value < b for value in values) for a, b in itertools.pairwise(edges)]
    return Histogram(tuple(edges), tuple(counts))


def curve(row_ms: float) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint({"sequence": length}, batch, p50, p50 * 1.3, 200)
        for length in (4, 32, 128)
        for batch in (1, 2, 4, 8, 16, 32)
        for p50 in [row_ms * (0.6 + length / 32) * (0.5 + batch**0.9)]
    )


def verdict(key: str, observed: float | None, outcome: str | None = None, needed: int | None = None) -> Verdict:
    limit = LIMITS[key]
    kept = observed is not None and (observed >= limit if key in HIGHER else observed <= limit)
    spread = 0.02 * abs(observed) + 0.001 if observed is not None else 0
    return Verdict(
        budget=key,
        limit=limit,
        observed=observed,
        low=None if observed is None else observed - spread,
        high=None if observed is None else observed + spread,
        n=1234,
        verdict=outcome or ("PASS" if kept else "FAIL"),  # type: ignore[arg-type]
        evidence=f"evidence of {key}",
        needed=needed,
    )


def candidate(
    name: str,
    status: str = "qualified",
    reason: str = "keeps every budget",
    *,
    observed: dict[str, float] | None = None,
    verdicts: tuple[Verdict, ...] | None = None,
    **more: Any,
) -> CandidateResult:
    """A candidate with a verdict and a measurement for each observed budget."""
    precision, _, runtime = name.partition("@")
    found = tuple(verdict(key, value) for key, value in (observed or {}).items())
    measured = tuple(
        Measurement(_measured(v.budget), v.observed, UNITS.get(v.budget, "share"), v.n, "a method", v.low, v.high)
        for v in (verdicts or found)
        if v.observed is not None
    )
    known = precision if precision in ("source", "fp32", "fp16", "int8-dynamic", "int8-static") else "fp32"
    return CandidateResult(
        name=name,
        precision=known,  # type: ignore[arg-type]
        runtime=runtime or "onnxruntime-cpu",
        status=status,  # type: ignore[arg-type]
        reason=reason,
        verdicts=found if verdicts is None else verdicts,
        measurements=measured + more.pop("measurements", ()),
        **more,
    )


def _measured(key: str) -> str:
    return "cost.per_million" if key == "cost.max_per_million" else key


def figures(drop: float, agreement: float, p99: float, memory: float, size: float, speedup: float) -> dict[str, float]:
    values = (drop, agreement, p99, memory, size, speedup, 0.35 / speedup)
    return dict(zip(LIMITS, values, strict=True))


def result(name: str = "sentiment", *candidates: CandidateResult, exit_code: int = 1, **more: Any) -> Result:
    won = next((t for t in candidates if t.status == "winner"), None)
    winner = (
        Winner(won.name, won.precision, won.runtime, 3, f"/registry/models/{name}/3/manifest.json") if won else None
    )
    defaults: dict[str, Any] = {
        "release": True,
        "reason": f"{won.name} wins" if won else "none of the candidates keeps all 7 budgets",
        "stages": (
            StageTime("export to ONNX", 14.2, cached=False),
            StageTime("int8-dynamic@onnxruntime-cpu: build", 0.001, cached=True),
            StageTime("int8-dynamic@onnxruntime-cpu: latency up to 408 calls", 31.75, cached=False),
        ),
        "machine": MACHINE,
        "tools": TOOLS,
        "created": "2026-01-02T03:04:05+00:00",
    }
    return Result(
        name=name,
        exit=0 if won else exit_code,
        winner=winner,
        candidates=candidates,
        budgets=BUDGETS,
        **{**defaults, **more},
    )


def source() -> CandidateResult:
    return candidate(
        "source@pytorch",
        "not-measured",
        "the baseline of every comparison, never published",
        measurements=(Measurement("latency.p99_ms", 38.0, "ms", 408, "single calls", 36.0, 41.0),),
    )


def won() -> Result:
    """int8-dynamic wins; fp32 is too large and too slow, plain int8-static ruins the model, fp16 does not apply."""
    return result(
        "sentiment",
        source(),
        candidate(
            "fp32@onnxruntime-cpu",
            "over-budget",
            "size.mb is 91, 51 over its limit of 40",
            observed=figures(0.0, 1.0, 29.0, 735, 91, 1.15),
            latencies=histogram(22, seed=2),
        ),
        candidate("fp16@onnxruntime-cpu", "n/a", "only when asked for: slower than fp32 on most CPUs"),
        candidate(
            "int8-dynamic@onnxruntime-cpu",
            "winner",
            "keeps every budget and is best for the objective",
            observed=figures(0.0004, 0.972, 14.0, 652, 23.1, 2.3),
            latencies=histogram(9.5, seed=3),
            curve=curve(4.2),
            flipped=tuple(range(3, 400, 20)),
            lost_by_class={"0": 41, "1": 12},
            notes=("48 nodes changed precision",),
        ),
        candidate(
            "int8-static@onnxruntime-cpu",
            "screened-out",
            "accuracy.max_drop in the screen: drop of 12.50 points on 256 samples",
            observed={"size.mb": 23.4, "accuracy.max_drop": 0.125, "accuracy.min_agreement": 0.72},
            flipped=(1, 2, 5),
            lost_by_class={"1": 30, "0": 2},
        ),
    )


def without_winner() -> Result:
    return result(
        "sentiment",
        source(),
        candidate("fp32@onnxruntime-cpu", "over-budget", "too large", observed=figures(0, 1, 29.0, 735, 91, 1.15)),
        candidate(
            "int8-static@onnxruntime-cpu", "over-budget", "ruined", observed=figures(0.1, 0.7, 12.0, 650, 23, 2.4)
        ),
    )


def all_failed() -> Result:
    return result(
        "broken",
        *(
            candidate(f"{p}@onnxruntime-cpu", "failed", "the process died with signal 6")
            for p in ("fp32", "int8-static")
        ),
        reason="none of 2 candidates keeps all 7 budgets: 2 failed",
    )


def inconclusive() -> Result:
    undecided = (
        verdict("accuracy.max_drop", 0.015, "INCONCLUSIVE", 4378),
        verdict("latency.p99_ms", 39.0, "INCONCLUSIVE"),
        verdict("size.mb", 23.0),
    )
    return result(
        "close",
        candidate("int8-dynamic@onnxruntime-cpu", "inconclusive", "accuracy.max_drop is undecided", verdicts=undecided),
        exit_code=3,
    )


def quick() -> Result:
    screened = candidate(
        "fp32@onnxruntime-cpu",
        "inconclusive",
        "latency.p99_ms was not measured",
        observed={"size.mb": 23.0},
        measurements=(Measurement("screen.p50_ms", 8.0, "ms", 20, "median of 20 calls"),),
    )
    engine = candidate("fp16@tensorrt-rtx", "built", "built, not measured")
    return result("quick", source(), screened, engine, exit_code=3, release=False, stages=())


def built() -> Result:
    """Artefacts were made and nothing was judged."""
    engine = candidate("fp16@tensorrt-rtx", "built", "built, not measured")
    return result(
        "built", engine, candidate("fp16@tensorrt", "n/a", "no GPU"), exit_code=0, release=False, reason="", stages=()
    )


def with_winner_and_open_loser() -> Result:
    """A load test is asked of the best alone, so the second best lacks one."""
    first = candidate("fp32@onnxruntime-cpu", "winner", observed=figures(0, 1, 9, 600, 20, 2))
    return result("open", first, candidate("int8-static@onnxruntime-cpu", "inconclusive", "not measured"))


def bare() -> Result:
    """The least that a result may hold."""
    return Result("bare", 4, None, (), BUDGETS, release=True, reason="")


def broken() -> Result:
    """What the user must mend before anything could be tried."""
    return result("absent", exit_code=2, reason="models.py:model: no such file", stages=())


def many(count: int = 20) -> Result:
    """As many candidates as a page may ever hold."""
    draw = random.Random(7)
    candidates = []
    for i in range(count):
        drop, p99 = draw.uniform(-0.002, 0.019), draw.uniform(8, 39)
        measured = figures(drop, draw.uniform(0.951, 1), p99, draw.uniform(500, 890), 20 + i * 2, draw.uniform(1.9, 3))
        kept = all(verdict(key, value).verdict == "PASS" for key, value in measured.items())
        status = "winner" if i == 0 else "qualified" if kept else "over-budget"
        drawn = histogram(p99 / 1.8, calls=300, seed=i)
        candidates.append(candidate(f"fp32@runtime-{i}", status, observed=measured, latencies=drawn))
    return result("many", *candidates)


HOSTILE = (
    "</title></style></svg><script>alert('x')</script><img src=x onerror=alert(1)>"
    ' "quoted" & | `tick` *star* \x1b[31m\x00 {{7*7}} {% raw %}'
)


def hostile() -> Result:
    """Every text that can come from outside is an attack."""
    attack = HOSTILE
    one = candidate(
        f"fp32@{attack}",
        "winner",
        attack,
        observed=figures(0, 1, 9, 600, 20, 2),
        latencies=histogram(7),
        curve=(CurvePoint({attack: 3}, 1, 2.0, 3.0, 50), CurvePoint({attack: 3}, 2, 3.0, 4.0, 50)),
        flipped=(1,),
        lost_by_class={attack: 3},
        notes=(attack,),
    )
    evil = msgspec.structs.replace(verdict("size.mb", 90.0), evidence=attack)
    two = candidate(f"fp32@2{attack}", "over-budget", attack, verdicts=(evil,), latencies=histogram(8))
    three = candidate(f"int8-dynamic@{attack}", "failed", attack)
    return result(
        attack,
        one,
        two,
        three,
        reason=attack,
        stages=(StageTime(attack, 1.0, cached=False),),
        machine=Machine(attack, 2, 100, (attack,), (attack,)),
        tools={attack: attack},
    )


def served() -> Served:
    """The version that :func:`won` published: it keeps its budgets on a server, not on a small machine, and one run broke."""
    small = Machine("A small processor", 1, 2_000, ("avx2",))
    server = Machine("A server processor", 64, 256_000, ("avx512_vnni", "amx_int8"), ("NVIDIA L4 (driver 570.1)",))
    name = "int8-dynamic@onnxruntime-cpu"
    kept = candidate(name, "winner", observed=figures(0.0004, 0.972, 6.0, 660, 23.1, 2.9))
    slow = candidate(name, "over-budget", "too slow", observed=figures(0.0004, 0.972, 81.0, 652, 23.1, 1.2))
    return Served(
        ONLINE,
        BULK,
        (
            result("sentiment", source(), kept, machine=server, created="2026-03-02T03:04:05+00:00"),
            result("sentiment", source(), slow, machine=small, created="2026-02-02T03:04:05+00:00"),
            result(
                "sentiment", exit_code=4, machine=small, created="2026-01-09T03:04:05+00:00", reason="the disk is full"
            ),
        ),
    )


def hostile_served() -> Served:
    """Judged on a machine whose every name is an attack."""
    evil = Machine(HOSTILE, 2, 100, (HOSTILE,), (HOSTILE,))
    judged = result(HOSTILE, candidate(f"fp32@{HOSTILE}", "failed", HOSTILE), machine=evil, created=HOSTILE)
    return Served(ONLINE, BULK, (judged,))
