"""Pure: the findings of a load test as a record, and that record as a table, as Markdown and as JSON.

The keys of the JSON are documented in docs/loadtest.md.
"""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from loadtest.results import Calls
from loadtest.verdict import Generator
from optimize.manifest import Outcome, Verdict
from optimize.statistics.arrivals import Arrivals, Seconds
from optimize.statistics.blocks import split_blocks
from optimize.statistics.percentile import min_calls
from optimize.statistics.quantile import quantile

_RANGE_NOTE = "The range of a rate is its one-sided 95 % bounds, and that of a p99 its best and its worst block."
_BLOCKS_NOTE = (
    "Milliseconds from the moment a call was due. A verdict on p99 needs every block to agree: queued calls wait for each other, and"
    " are not independent evidence."
)
_SCHEDULE_NOTE = (
    "Every call was due at a time that was drawn before the first was sent. A client that waits for an answer before it sends again"
    " sends little while the service is slow, and so measures little of it (coordinated omission). Here the"
    " wait of a call counts, and a call that failed, or was never answered, counts as slower than any limit."
)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An immutable part of the report."""


class Load(Record, frozen=True):
    """The load: `calls` judged calls, after a lead-in of `lead_in_s` that is not judged."""

    arrivals: Arrivals
    rate_qps: float
    duration_s: float
    lead_in_s: float
    seed: int
    calls: int
    rows_per_call: int
    timeout_s: float
    payloads: int
    payloads_from: str


class Percentiles(Record, frozen=True):
    """Milliseconds; None where there are too few calls, or where that many calls failed."""

    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class Block(Record, frozen=True):
    """One of the consecutive blocks that must agree."""

    calls: int
    failed: int
    latency: Percentiles


class Report(Record, frozen=True):
    """The whole of a load test."""

    schema: Literal[1]
    model: str
    target: str
    started: str
    verdict: Outcome
    exit: int
    verdicts: tuple[Verdict, ...]
    load: Load
    good_qps: float
    latency: Percentiles
    since_sent: Percentiles
    blocks: tuple[Block, ...]
    codes: dict[str, int]
    said: dict[str, str]
    versions: dict[str, int]
    generator: Generator


def percentiles(latencies_ms: Seconds) -> Percentiles:
    """The percentiles that this number of calls supports."""
    p50, p90, p99 = (_percentile(latencies_ms, share) for share in (0.5, 0.9, 0.99))
    return Percentiles(p50, p90, p99, _finite(float(np.max(latencies_ms))))


def _percentile(latencies_ms: Seconds, share: float) -> float | None:
    return _finite(quantile(latencies_ms, share)) if len(latencies_ms) >= min_calls(share) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def blocks(calls: Calls) -> tuple[Block, ...]:
    """The blocks that the verdict rests on."""
    return tuple(
        Block(len(part), int(np.count_nonzero(np.isinf(part))), percentiles(part))
        for part in split_blocks(calls.judged_ms)
        if len(part)
    )


def to_json(report: Report) -> bytes:
    """The report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def table(report: Report) -> str:
    """A few lines for a terminal: the verdict, each budget, and the counts."""
    rows = [("budget", "limit", "observed", "verdict"), *(_row(verdict) for verdict in report.verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    why = [f"{verdict.budget}: {verdict.evidence}" for verdict in report.verdicts if verdict.verdict != "PASS"]
    return "\n".join(
        [
            f"{report.verdict}: {report.model} at {report.target}, {_offered(report.load)}",
            *lines,
            *why,
            f"calls: {_counts(report.codes)}; answered by version: {_counts(report.versions)}",
        ]
    )


def markdown(report: Report) -> str:
    """The report for a reader, verdict first."""
    return "\n\n".join(
        [
            f"# Load test of `{report.model}`: {report.verdict}",
            f"`{report.target}`, {report.started}: {_offered(report.load)}.",
            _verdicts(report.verdicts),
            _RANGE_NOTE,
            "## Latency",
            _BLOCKS_NOTE,
            _latencies(report),
            "## Answers",
            f"{report.good_qps:.1f} good answers per second, of {report.load.rate_qps:g} offered.",
            _codes(report),
            f"Answered by version: {_counts(report.versions)}.",
            "## The load",
            _load(report.load),
            "## The generator",
            _generator(report.generator),
            "## Why latency counts from the schedule",
            _SCHEDULE_NOTE,
        ]
    )


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    return _grid(
        ("budget", "limit", "observed", "range", "verdict", "evidence"),
        [(*_row(v)[:3], f"{_shown(v.low)} to {_shown(v.high)}", f"**{v.verdict}**", v.evidence) for v in verdicts],
    )


def _codes(report: Report) -> str:
    """The texts come from the service: nothing in them may be read as a table's markup."""
    said = {code: " ".join(text.split()).replace("|", r"\|") for code, text in report.said.items()}
    return _grid(
        ("end of the call", "calls", "first text"),
        [(code, f"{count:,}", said.get(code, "")) for code, count in report.codes.items()],
    )


def _latencies(report: Report) -> str:
    failed = str(sum(block.failed for block in report.blocks))
    each = [(f"block {i}: {b.calls:,}", str(b.failed), *_cells(b.latency)) for i, b in enumerate(report.blocks, 1)]
    return _grid(
        ("calls", "failed", "p50", "p90", "p99", "max"),
        [
            *each,
            (f"all: {report.load.calls:,}", failed, *_cells(report.latency)),
            ("all, from when they were sent", failed, *_cells(report.since_sent)),
        ],
    )


def _row(verdict: Verdict) -> tuple[str, str, str, str]:
    return verdict.budget, f"{verdict.limit:g}", _shown(verdict.observed), verdict.verdict


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _cells(latency: Percentiles) -> tuple[str, str, str, str]:
    return _shown(latency.p50_ms), _shown(latency.p90_ms), _shown(latency.p99_ms), _shown(latency.max_ms)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _offered(load: Load) -> str:
    return f"{load.calls:,} calls at {load.rate_qps:g} per second, {load.arrivals} arrivals, {load.duration_s:.1f} s"


def _load(load: Load) -> str:
    rows = "1 row" if load.rows_per_call == 1 else f"{load.rows_per_call} rows"
    return (
        f"{load.arrivals.capitalize()} arrivals with seed {load.seed}; {load.payloads} requests of {rows} in rotation, from"
        f" {load.payloads_from}. A lead-in of {load.lead_in_s:g} s at the same rate came first and is not judged. A call without an"
        f" answer {load.timeout_s:g} s after it was sent was cancelled and counts as failed."
    )


def _generator(generator: Generator) -> str:
    return (
        f"Calls were sent {generator.late_p50_ms:.2f} ms after they were due in the median, {generator.late_p99_ms:.2f} ms at p99 and"
        f" {generator.late_max_ms:.2f} ms at most. Tolerated at p99 are {generator.tolerance_ms:g} ms: the generator"
        f" {'kept up' if generator.kept_up else 'did not keep up, so that nothing here is blamed on the service'}."
    )


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
