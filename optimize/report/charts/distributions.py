"""The latencies of single calls as they fell, a row per candidate on one axis."""

import math
from collections.abc import Mapping

import altair as alt

from optimize.budgets import Limit
from optimize.manifest import CandidateResult, Histogram, Result
from optimize.report.charts.figure import (
    AXIS_WIDTH,
    LIMIT,
    PLOT_WIDTH,
    RULE,
    Figure,
    figure,
    standing_colors,
    standing_of,
)
from optimize.report.charts.placing import log_ticks
from optimize.report.wording import quantity, short_names, title

_PERCENTILES = ("latency.p50_ms", "latency.p99_ms")

Bar = dict[str, str | float]

_FAR = 4.0
_ROOM = 1.05
_ROW_PX = 54
_ROW_PX_OF_MANY = 30
_MANY = 8


def distributions(result: Result, declared: Mapping[str, Limit]) -> Figure | None:
    """Histograms on a logarithmic axis; None where no candidate has one."""
    names = short_names(result.candidates)
    drawn = [
        (candidate, candidate.latencies)
        for candidate in result.candidates
        if candidate.latencies and sum(candidate.latencies.counts)
    ]
    bars: list[Bar] = [
        {"name": names[candidate.name], "standing": standing_of(candidate.status), **bar}
        for candidate, histogram in drawn
        for bar in densities(histogram)
    ]
    if not bars:
        return None
    slowest = max(histogram.edges_ms[-1] for _, histogram in drawn)
    asked = [declared[key] for key in _PERCENTILES if key in declared]
    near = [limit for limit in asked if limit.value <= _FAR * slowest]
    order = [names[candidate.name] for candidate, _ in drawn]
    header = alt.Header(labelOrient="top", labelAnchor="start", labelPadding=1, labelFontWeight="bold")
    chart: alt.FacetChart = _rows(bars, near).facet(
        row=alt.Row("name:N", sort=order, title=None, header=header), data=alt.InlineData(values=bars), spacing=6
    )
    chart = chart.resolve_scale(y="independent")
    return figure("Latency of single calls", _caption(asked, near), _described(drawn, names), chart)


def densities(histogram: Histogram) -> list[dict[str, float]]:
    """Each bin that holds calls: where it stands, and its share of the calls per tenfold of latency, so that areas compare."""
    calls = sum(histogram.counts)
    edges = zip(histogram.edges_ms, histogram.edges_ms[1:], strict=False)
    return [
        {"low": low, "high": high, "density": count / calls / math.log10(high / low)}
        for (low, high), count in zip(edges, histogram.counts, strict=True)
        if count and 0 < low < high
    ]


def _rows(bars: list[Bar], limits: list[Limit]) -> alt.LayerChart:
    present = {str(bar["standing"]) for bar in bars}
    rows = len({str(bar["name"]) for bar in bars})
    low = min(float(bar["low"]) for bar in bars) / _ROOM
    high = max([float(bar["high"]) for bar in bars] + [limit.value for limit in limits]) * _ROOM
    drawn = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=alt.X(
                "low:Q",
                scale=alt.Scale(type="log", domain=[low, high], nice=False),
                axis=alt.Axis(title="ms of one call", values=log_ticks(low, high)),
            ),
            x2="high:Q",
            y=alt.Y("density:Q", axis=None),
            y2=alt.datum(0),
            color=alt.Color("standing:N", scale=standing_colors(present)),
        )
    )
    floor = alt.Chart().mark_rule(color=RULE).encode(y=alt.Y(datum=0, axis=None))
    rules = [alt.Chart().mark_rule(color=LIMIT, strokeDash=[5, 4]).encode(x=alt.datum(limit.value)) for limit in limits]
    height = _ROW_PX if rows <= _MANY else _ROW_PX_OF_MANY
    return alt.LayerChart(layer=[floor, drawn, *rules], width=PLOT_WIDTH + AXIS_WIDTH, height=height)


def _caption(asked: list[Limit], near: list[Limit]) -> str:
    said = "Each row holds all calls of one candidate, on a logarithmic axis, scaled to its own height."
    if near:
        said += f" Dashed: {' and '.join(f'{title(limit.key)}, {quantity(limit.key, limit.value)}' for limit in near)}."
    far = [limit for limit in asked if limit not in near]
    if far:
        said += f" Beyond the right edge: {' and '.join(f'{title(limit.key)}, {quantity(limit.key, limit.value)}' for limit in far)}."
    return said


def _described(drawn: list[tuple[CandidateResult, Histogram]], names: Mapping[str, str]) -> str:
    each = "; ".join(
        f"{names[candidate.name]}: {sum(h.counts):,} calls from {h.edges_ms[0]:.3g} to {h.edges_ms[-1]:.3g} ms, most at"
        f" {h.edges_ms[h.counts.index(max(h.counts))]:.3g} ms"
        for candidate, h in drawn
    )
    return f"Histograms of latency. {each}."
