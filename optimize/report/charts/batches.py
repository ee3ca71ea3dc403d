"""Latency per batch size, a line per shape: what the batcher plans with."""

import altair as alt

from optimize.manifest import CandidateResult, CurvePoint, Result
from optimize.report.charts.figure import PLOT_WIDTH, Figure, figure
from optimize.report.charts.placing import log_ticks
from optimize.report.wording import number, plain

_HEIGHT = 240
_COLORS = ["#0b6e4f", "#2f6fb0", "#b07a00", "#7a4b9d", "#c0392b", "#5b6875"]


def batches(result: Result) -> Figure | None:
    """Median and p95 of the winner (else of the first with a curve) on two logarithmic axes; None where no candidate has one."""
    curved = sorted(
        (candidate for candidate in result.candidates if candidate.curve),
        key=lambda candidate: candidate.status != "winner",
    )
    if not curved:
        return None
    candidate = curved[0]
    lines = [line for point in candidate.curve for line in _lines(point)]
    shapes = list(dict.fromkeys(str(line["shape"]) for line in lines))
    sizes = sorted({point.batch for point in candidate.curve})
    color = alt.Color("shape:N", scale=alt.Scale(domain=shapes, range=_COLORS[: len(shapes)]))
    low, high = min(float(line["ms"]) for line in lines), max(float(line["ms"]) for line in lines)
    base = alt.Chart(alt.InlineData(values=lines)).encode(
        x=alt.X(
            "batch:Q",
            scale=alt.Scale(type="log", base=2, nice=False),
            axis=alt.Axis(title="rows per call", values=sizes, format="d"),
        ),
        y=alt.Y(
            "ms:Q",
            scale=alt.Scale(type="log", domain=[low / 1.15, high * 1.15], nice=False),
            axis=alt.Axis(title="ms of one call", values=log_ticks(low / 1.15, high * 1.15)),
        ),
        color=color if len(shapes) > 1 else alt.value(_COLORS[0]),
    )
    dash = alt.StrokeDash("percentile:N", scale=alt.Scale(domain=["p50", "p95"], range=[[1, 0], [4, 3]]))
    layers = [base.mark_line(strokeWidth=2).encode(strokeDash=dash), base.mark_point(filled=True, size=32, opacity=1)]
    return figure(
        "Latency per batch size",
        f"{plain(candidate.name)}, one execution at a time; the server plans with p95."
        + (f" Shape: {shapes[0]}." if len(shapes) == 1 and shapes[0] else ""),
        _described(candidate),
        alt.LayerChart(layer=layers, width=PLOT_WIDTH, height=_HEIGHT),
    )


def _lines(point: CurvePoint) -> list[dict[str, str | float]]:
    shape = plain(", ".join(f"{name} {size}" for name, size in point.shape.items()))
    return [
        {"shape": shape, "batch": point.batch, "percentile": percentile, "ms": ms}
        for percentile, ms in (("p50", point.p50_ms), ("p95", point.p95_ms))
        if ms > 0
    ]


def _described(candidate: CandidateResult) -> str:
    first, last = candidate.curve[0], candidate.curve[-1]
    return (
        f"Line chart of latency per batch size of {candidate.name}, {len(candidate.curve)} points: from {number(first.p50_ms)} ms for"
        f" {first.batch} rows to {number(last.p50_ms)} ms for {last.batch} rows (medians)."
    )
