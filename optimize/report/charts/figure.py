"""One chart: a Vega-Lite specification with its words, and its drawing as SVG.

Vega draws it here, so that the page needs no script, no data and no request.
"""

from typing import Any

import altair as alt
import vl_convert
from msgspec import Struct

from optimize.manifest import Status
from optimize.report.wording import plain

PLOT_WIDTH = 400
"""Width of the plotting area in pixels, next to an axis of AXIS_WIDTH: a chart fits a phone, and all have one scale."""
AXIS_WIDTH = 50

INK = "#1c2733"
MUTED = "#5b6875"
RULE = "#d5dbe1"
LIMIT = INK
# Of the metrics that Vega lays text out with, so that no label is cut where another font would be wider.
FONT = "Arial, 'Liberation Sans', Arimo, Helvetica, sans-serif"

# Colours that keep apart for colour-blind readers and in print; shapes say the same once more.
STANDINGS: tuple[tuple[str, tuple[Status, ...], str, str], ...] = (
    ("winner", ("winner",), "#0b6e4f", "circle"),
    ("qualified", ("qualified", "built"), "#2f6fb0", "square"),
    ("undecided", ("inconclusive",), "#b07a00", "triangle-up"),
    ("out", ("over-budget", "failed", "screened-out"), "#c0392b", "cross"),
    ("baseline", ("not-measured", "n/a"), "#6b7785", "diamond"),
)
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


class Figure(Struct, frozen=True):
    """A chart; `alt` describes it for those who cannot see it."""

    title: str
    caption: str
    alt: str
    chart: dict[str, Any]

    def svg(self) -> str:
        """The chart drawn, as an SVG element."""
        return vl_convert.vegalite_to_svg(self.chart, vl_version=_VEGA_LITE)


def figure(title: str, caption: str, described: str, chart: alt.LayerChart | alt.FacetChart) -> Figure:
    """A chart in the report's own dress."""
    styled = (
        chart.configure(background="transparent", font=FONT, padding=4)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=MUTED,
            titleColor=INK,
            titleFontWeight="normal",
            titlePadding=8,
            labelFontSize=11,
            titleFontSize=12,
            gridColor=RULE,
            gridOpacity=0.7,
            domainColor=MUTED,
            tickColor=MUTED,
            labelLimit=170,
        )
        .configure_legend(
            orient="bottom", title=None, labelColor=INK, labelFontSize=11, symbolSize=70, symbolOpacity=1, columns=5
        )
        .configure_header(labelColor=INK, labelFontSize=11)
    )
    return Figure(title, plain(caption), plain(described), styled.to_dict())


def haloed(chart: alt.Chart, **placed: Any) -> list[alt.Chart]:
    """Text marks that stay legible over lines: the text on a white outline of itself."""
    return [
        chart.mark_text(fontSize=11, stroke="white", strokeWidth=4, strokeJoin="round", **placed),
        chart.mark_text(fontSize=11, color=INK, **placed),
    ]


def standing_of(status: Status) -> str:
    """What a status is called in the charts' legends."""
    return next(name for name, statuses, _, _ in STANDINGS if status in statuses)


def standing_colors(present: set[str]) -> alt.Scale:
    """The colours of the standings that a chart shows."""
    shown = [(name, color) for name, _, color, _ in STANDINGS if name in present]
    return alt.Scale(domain=[name for name, _ in shown], range=[color for _, color in shown])


def standing_shapes(present: set[str]) -> alt.Scale:
    """The shapes of the standings that a chart shows."""
    shown = [(name, shape) for name, _, _, shape in STANDINGS if name in present]
    return alt.Scale(domain=[name for name, _ in shown], range=[shape for _, shape in shown])
