"""What is known of a published version beyond its export: how to run it, and which budgets it meets on other machines."""

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

from optimize.errors import Exit
from optimize.manifest import Machine, OperatingPoint, Result, counted
from optimize.report.account import SOURCE, Row, Tone, account
from optimize.report.wording import number, plain, quantity

JUDGED_OTHERWISE = "by other budgets"
_OUTCOMES: dict[Exit, tuple[str, Tone]] = {
    Exit.OK: ("meets every budget", "good"),
    Exit.OVER_BUDGET: ("over budget", "bad"),
    Exit.INCONCLUSIVE: ("undecided", "open"),
}


class Served(Struct, frozen=True):
    """A published version: its operating points, and what `optimize validate` found of it, the latest first."""

    online: OperatingPoint | None = None
    bulk: OperatingPoint | None = None
    judgements: tuple[Result, ...] = ()


NOTHING: Mapping[str, Served] = MappingProxyType({})
"""For results without a published version, by model."""


class Layout(Struct, frozen=True):
    """An operating point in words."""

    use: str
    sessions: str
    batch: str
    rows_per_s: str
    p50: str
    p95: str
    n: str


class Judgement(Struct, frozen=True):
    """The verdict on a version on one machine, in words; `why` names the budgets that it missed there."""

    machine: str
    created: str
    outcome: str
    tone: Tone
    why: tuple[str, ...]
    rows: Mapping[str, Row]


def layouts(served: Served | None) -> tuple[Layout, ...]:
    """The operating points of a version."""
    uses = [("single requests", served.online), ("bulk", served.bulk)] if served else []
    return tuple(_layout(use, point) for use, point in uses if point is not None)


def _layout(use: str, point: OperatingPoint) -> Layout:
    return Layout(
        use=use,
        sessions=f"{point.instances} of {counted(point.threads, 'thread')}",
        batch=number(point.batch),
        rows_per_s=number(point.rows_per_s),
        p50=quantity("latency.p50_ms", point.p50_ms),
        p95=quantity("latency.p95_ms", point.p95_ms),
        n=f"{point.n:,}",
    )


def judgements(result: Result, served: Served | None) -> tuple[Judgement, ...]:
    """The verdicts of every machine on the version that a result published."""
    return tuple(_judgement(found, result) for found in (served.judgements if served else ()))


def _judgement(found: Result, result: Result) -> Judgement:
    standing = next((s for s in account(found).standings if s.candidate.precision != SOURCE), None)
    outcome, tone = _OUTCOMES.get(Exit(found.exit), ("could not be judged", "bad"))
    why = standing.why if standing else (plain(found.reason),)
    return Judgement(
        machine=machine(found.machine),
        created=found.created,
        outcome=outcome if found.budgets == result.budgets else f"{outcome}, {JUDGED_OTHERWISE}",
        tone=tone,
        why=() if found.exit == Exit.OK else why,
        rows={row.key: row for row in standing.budgets} if standing else {},
    )


def machine(found: Machine | None) -> str:
    """Processor, cores and GPUs."""
    if found is None:
        return "an unnamed machine"
    return plain(", ".join((found.cpu, counted(found.cores, "core"), *found.devices)))
