"""What each candidate loses in accuracy for its latency, and which are beaten on both."""

from collections.abc import Mapping

import altair as alt
from msgspec import Struct

from optimize.budgets import Limit
from optimize.manifest import CandidateResult, Result
from optimize.report.charts.figure import (
    LIMIT,
    MUTED,
    PLOT_WIDTH,
    Figure,
    figure,
    haloed,
    standing_colors,
    standing_of,
    standing_shapes,
)
from optimize.report.charts.placing import Span, labelled, log_ticks, span
from optimize.report.wording import quantity, short_names, title

_HEIGHT = 270
_DROP = "accuracy.max_drop"
_LATENCIES = ("latency.p99_ms", "latency.p50_ms", "screen.p50_ms")
# A limit this many times beyond the slowest candidate would only squeeze the candidates together.
_FAR = 2.0


class Point(Struct, frozen=True):
    """One candidate in the plane; bounds that are not known are the value itself."""

    name: str
    standing: str
    ms: float
    ms_low: float
    ms_high: float
    drop: float
    drop_low: float
    drop_high: float


def pareto(result: Result, declared: Mapping[str, Limit]) -> Figure | None:
    """Latency across, accuracy drop upwards; None where fewer than two candidates have both."""
    key = next((name for name in _LATENCIES if len(_points(result, name)) > 1), None)
    if key is None:
        return None
    points = _points(result, key)
    latency, drop = declared.get(key), declared.get(_DROP)
    near = latency if latency and latency.value <= _FAR * max(point.ms for point in points) else None
    across = span(
        [*(value for p in points for value in (p.ms_low, p.ms_high)), *([near.value] if near else [])], may_log=True
    )
    upwards = span([0.0, *(v for p in points for v in (p.drop_low, p.drop_high)), *([drop.value] if drop else [])])
    best = front(points)
    layers = [*_limits(near, drop), _front(best), *_marks(points), *_labels(points, best, across, upwards)]
    chart = alt.LayerChart(layer=layers, width=PLOT_WIDTH, height=_HEIGHT).encode(
        x=alt.X("ms:Q", scale=_scale(across), axis=_ticks(across, f"{title(key)}, ms")),
        y=alt.Y("drop:Q", scale=_scale(upwards), axis=alt.Axis(title="accuracy drop against the source", tickCount=6)),
    )
    return figure("Accuracy against latency", _caption(key, latency, near, drop), _described(points, key, best), chart)


def _points(result: Result, key: str) -> list[Point]:
    """The winner first, so that its label finds room; the source loses nothing against itself."""
    names = short_names(result.candidates)
    found = [point for candidate in result.candidates if (point := _point(candidate, key, names[candidate.name]))]
    return sorted(found, key=lambda point: point.standing != "winner")


def _point(candidate: CandidateResult, key: str, name: str) -> Point | None:
    latency, drop = candidate.measured(key), candidate.measured(_DROP)
    if latency is None or latency.value <= 0 or (drop is None and candidate.precision != "source"):
        return None
    lost = drop.value if drop else 0.0
    return Point(
        name=name,
        standing=standing_of(candidate.status),
        ms=latency.value,
        ms_low=latency.low or latency.value,
        ms_high=latency.high or latency.value,
        drop=lost,
        drop_low=lost if drop is None or drop.low is None else drop.low,
        drop_high=lost if drop is None or drop.high is None else drop.high,
    )


def front(points: list[Point]) -> list[Point]:
    """The points that no other beats on both counts, fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.ms, point.drop)):
        if not best or point.drop < best[-1].drop:
            best.append(point)
    return best


def _scale(axis: Span) -> alt.Scale:
    return alt.Scale(type="log" if axis.log else "linear", domain=[axis.low, axis.high], nice=False, zero=False)


def _ticks(axis: Span, said: str) -> alt.Axis:
    if axis.log:
        return alt.Axis(title=said, values=log_ticks(axis.low, axis.high))
    return alt.Axis(title=said, tickCount=6)


def _values(points: list[Point]) -> alt.InlineData:
    return alt.InlineData(values=[{f: getattr(point, f) for f in point.__struct_fields__} for point in points])


def _limits(latency: Limit | None, drop: Limit | None) -> list[alt.Chart]:
    rules = []
    if latency:
        data = alt.InlineData(values=[{"ms": latency.value}])
        rules.append(alt.Chart(data).mark_rule(color=LIMIT, strokeDash=[5, 4]).encode(x="ms:Q", y=alt.Y()))
    if drop:
        data = alt.InlineData(values=[{"drop": drop.value}])
        rules.append(alt.Chart(data).mark_rule(color=LIMIT, strokeDash=[5, 4]).encode(y="drop:Q", x=alt.X()))
    return rules


def _front(best: list[Point]) -> alt.Chart:
    line: alt.Chart = alt.Chart(_values(best)).mark_line(color=MUTED, strokeWidth=1.2, opacity=0.7)
    return line.encode(x="ms:Q", y="drop:Q")


def _marks(points: list[Point]) -> list[alt.Chart]:
    present = {point.standing for point in points}
    color = alt.Color("standing:N", scale=standing_colors(present))
    whisker = alt.Chart(_values(points)).mark_rule(strokeWidth=1.4, opacity=0.55)
    return [
        whisker.encode(x="ms:Q", y="drop_low:Q", y2="drop_high:Q", color=color),
        whisker.encode(x="ms_low:Q", x2="ms_high:Q", y="drop:Q", color=color),
        alt.Chart(_values(points))
        .mark_point(filled=True, size=95, opacity=1)
        .encode(x="ms:Q", y="drop:Q", color=color, shape=alt.Shape("standing:N", scale=standing_shapes(present))),
    ]


def _labels(points: list[Point], best: list[Point], across: Span, upwards: Span) -> list[alt.Chart]:
    ordered = sorted(points, key=lambda point: (point.standing != "winner", point not in best))
    placed = labelled(
        [(across.position(p.ms) * PLOT_WIDTH, (1 - upwards.position(p.drop)) * _HEIGHT, p.name) for p in ordered],
        PLOT_WIDTH,
        _HEIGHT,
    )
    values = [{"left": label[0], "top": label[1], "text": label[2]} for label in placed if label]
    left, top = alt.X("left:Q", scale=None, axis=None), alt.Y("top:Q", scale=None, axis=None)
    return [mark.encode(x=left, y=top, text="text:N") for mark in haloed(alt.Chart(alt.InlineData(values=values)))]


def _caption(key: str, latency: Limit | None, near: Limit | None, drop: Limit | None) -> str:
    said = "Left and down is better. Whiskers are one-sided bounds; the grey line joins the candidates that no other beats on both."
    if drop or near:
        said += " Dashed lines are limits."
    if latency and not near:
        said += f" The limit of {quantity(key, latency.value)} lies beyond the right edge."
    return said


def _described(points: list[Point], key: str, best: list[Point]) -> str:
    each = "; ".join(f"{p.name} ({p.standing}) {quantity(key, p.ms)} with a drop of {p.drop:.4g}" for p in points)
    return f"Scatter chart of {title(key)} against accuracy drop: {each}. Not beaten on both: {', '.join(p.name for p in best)}."
