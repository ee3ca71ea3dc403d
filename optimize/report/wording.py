"""Figures in words: every number with its unit, its name for a reader, and how far it is from its limit."""

from typing import Literal

from optimize.budgets import Limit
from optimize.manifest import CandidateResult, Verdict, about

NONE = "—"
"""Stands where there is no figure."""

CAPACITY = "throughput.capacity_qps"
_TITLES = {
    "accuracy.max_drop": "Accuracy drop",
    "accuracy.min_agreement": "Agreement",
    "latency.p50_ms": "Latency p50",
    "latency.p99_ms": "Latency p99",
    "memory.peak_mb": "Peak memory",
    "throughput.qps": "Throughput",
    "throughput.p99_ms": "p99 at that rate",
    "size.mb": "Size",
    "speed.min_speedup": "Speed-up",
    "speed.max_slowdown": "Slow-down",
    "speed.rows_per_s": "Rows per second",
    "cost.max_per_million": "Cost per million rows",
    "cost.per_million": "Cost per million rows",
    "accuracy.batch_changed": "Answers that depend on their batch",
    "throughput.capacity_qps": "Highest rate, estimated",
    "screen.p50_ms": "Median of the screen",
    "end_to_end.p50_ms": "p50 with preprocessing",
    "end_to_end.p99_ms": "p99 with preprocessing",
}
MARKS: dict[str, tuple[str, str]] = {
    "PASS": ("✓", "green"),
    "FAIL": ("✗", "red"),
    "INCONCLUSIVE": ("?", "yellow"),
}
"""How a verdict is marked on a terminal, and in which colour."""

_UNITS = {
    "ms": " ms",
    "mb": " MB",
    "qps": " requests/s",
    "rows_per_s": " rows/s",
    "speedup": " times",
    "slowdown": " times",
}
_COUNTED = {
    "accuracy": "samples",
    "latency": "calls",
    "throughput": "calls",
    "speed": "pairs of blocks",
    "memory": "processes",
}


def printable(text: str) -> str:
    """The text with spaces in place of the control characters that a terminal or a page would act on."""
    return "".join(char if char.isprintable() else " " for char in text)


def plain(text: str) -> str:
    """The text on one line, printable and with single spaces."""
    return " ".join(printable(text).split())


def number(value: float) -> str:
    """Four significant digits, thousands set apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def quantity(key: str, value: float) -> str:
    """A value of the budget or measurement `key`, with its unit."""
    return number(value) + unit(key)


def title(key: str) -> str:
    """The heading of a key of budgets.toml."""
    return _TITLES.get(key, key)


def bounds(key: str, low: float | None, high: float | None) -> str:
    """One-sided bounds as a range; either may be missing. Where both are the value itself there is no range."""
    if low is not None and low == high:
        return NONE
    if low is not None and high is not None:
        return f"{number(low)} to {number(high)}{unit(key)}"
    if high is not None:
        return f"at most {quantity(key, high)}"
    return f"at least {quantity(key, low)}" if low is not None else NONE


def asked(limit: Limit) -> str:
    """A budget as a condition, such as `at most 5 ms`."""
    return f"at {'most' if limit.better == 'lower' else 'least'} {quantity(limit.key, limit.value)}"


def shortfall(limit: Limit, observed: float) -> str:
    """How far a value is on the wrong side of its limit, in its unit and as a share."""
    by = abs(observed - limit.value)
    share = by / abs(limit.value) if limit.value else 0.0
    part = f" ({share:.0%})" if share >= 0.01 else " (under 1%)" if share else ""
    return f"{quantity(limit.key, by)}{part} {'over' if limit.better == 'lower' else 'under'} its limit"


def settling(verdict: Verdict) -> str:
    """What would settle an INCONCLUSIVE verdict."""
    if verdict.needed is None:
        return plain(verdict.evidence)
    counted = _COUNTED.get(verdict.budget.partition(".")[0], "measurements")
    return f"{verdict.n:,} {counted} so far; {about(verdict.needed)} in all would settle it"


def moment(created: str) -> str:
    """An ISO 8601 time in plain form."""
    return plain(created).replace("T", " ").replace("+00:00", " UTC") or NONE


def short_names(candidates: tuple[CandidateResult, ...]) -> dict[str, str]:
    """Each candidate's name for a chart: its precision alone where no other candidate has the same, else its whole name."""
    precisions = [candidate.precision for candidate in candidates]
    return {
        candidate.name: plain(candidate.precision if precisions.count(candidate.precision) == 1 else candidate.name)
        for candidate in candidates
    }


def unit(key: str) -> str:
    """The unit of a key of budgets.toml, such as ` ms`; empty where it has none."""
    field = key.partition(".")[2]
    return next((unit for end, unit in _UNITS.items() if field == end or field.endswith(f"_{end}")), "")


def sign(limit: Limit) -> str:
    """The side of a limit that is right."""
    return "≤" if limit.better == "lower" else "≥"


def decisive(verdict: Verdict, better: Literal["lower", "higher"]) -> float | None:
    """The bound that a PASS or a FAIL rests on: the one that is nearest to the limit."""
    return verdict.high if (better == "lower") == (verdict.verdict == "PASS") else verdict.low


def with_bound(verdict: Verdict, limit: Limit, capacity: float | None) -> str:
    """An observed figure with the bound that its verdict rests on, both without their unit.

    A rate is offered exactly, so one that was kept is shown with the estimate of the highest (`capacity`).
    """
    if verdict.observed is None:
        return ""
    if limit.key == "throughput.qps" and verdict.verdict == "PASS":
        return "kept" if capacity is None else f"kept (up to {number(capacity)})"
    observed = brief(verdict.observed, limit)
    ends = [brief(bound, limit) for bound in (verdict.low, verdict.high) if bound is not None]
    if not ends or verdict.low == verdict.high:
        return observed
    if verdict.verdict == "INCONCLUSIVE":
        return f"{observed} ({' to '.join(ends)})"
    bound = decisive(verdict, limit.better)
    side = "≤" if bound == verdict.high else "≥"
    return observed if bound is None else f"{observed} ({side} {brief(bound, limit)})"


def brief(value: float, limit: Limit) -> str:
    """Three significant digits, or as many as show that a value is not its limit."""
    digits = next((n for n in range(3, 9) if float(f"{value:.{n}g}") != limit.value or value == limit.value), 9)
    return number(value) if abs(value) >= 1000 else f"{value:.{digits}g}"
