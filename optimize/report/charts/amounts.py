"""One measured quantity, a bar per candidate, with its limit."""

from collections.abc import Mapping

import altair as alt

from optimize.budgets import Limit
from optimize.manifest import CandidateResult, Result
from optimize.report.charts.figure import (
    AXIS_WIDTH,
    INK,
    LIMIT,
    PLOT_WIDTH,
    Figure,
    figure,
    haloed,
    standing_colors,
    standing_of,
)
from optimize.report.charts.placing import CHARACTER_PX
from optimize.report.wording import asked, number, quantity, short_names, title

_LONGEST_NAME_PX = 170
_STEP_PX = 26
# Measured key, key of its budget, what the axis says.
_AMOUNTS = (
    ("memory.peak_mb", "memory.peak_mb", "MB at the peak of a fresh process"),
    ("size.mb", "size.mb", "MB of the artefact's files"),
    ("speed.min_speedup", "speed.min_speedup", "times the source's rows per second"),
    ("throughput.qps", "throughput.qps", "requests per second"),
    ("cost.per_million", "cost.max_per_million", "cost of a million rows"),
)


def amounts(result: Result, declared: Mapping[str, Limit]) -> list[Figure]:
    """A chart for each quantity that some candidate was measured for."""
    found = (_amount(result, key, declared.get(budget), axis) for key, budget, axis in _AMOUNTS)
    return [figure for figure in found if figure is not None]


def _amount(result: Result, key: str, limit: Limit | None, axis: str) -> Figure | None:
    names = short_names(result.candidates)
    bars = [bar for candidate in result.candidates if (bar := _bar(candidate, key, names[candidate.name]))]
    if not bars:
        return None
    said = f"The limit is {asked(limit)} (dashed)." if limit else "No budget limits it."
    if any(bar["low"] != bar["high"] for bar in bars):
        said += " Whiskers show the bounds, or the range of several processes."
    described = "; ".join(f"{bar['name']} {quantity(key, float(bar['value']))}" for bar in bars)
    return figure(title(key), said, f"Bar chart of {title(key)}: {described}.", _drawn(bars, limit, axis))


def _bar(candidate: CandidateResult, key: str, name: str) -> dict[str, str | float] | None:
    found = candidate.measured(key)
    if found is None:
        return None
    return {
        "name": name,
        "standing": standing_of(candidate.status),
        "value": found.value,
        "shown": number(found.value),
        "low": found.value if found.low is None else found.low,
        "high": found.value if found.high is None else found.high,
    }


def _drawn(bars: list[dict[str, str | float]], limit: Limit | None, axis: str) -> alt.LayerChart:
    data = alt.InlineData(values=bars)
    present = {str(bar["standing"]) for bar in bars}
    rows = alt.Y(
        "name:N",
        sort=[str(bar["name"]) for bar in bars],
        title=None,
        axis=alt.Axis(ticks=False, domain=False, labelLimit=_LONGEST_NAME_PX),
    )
    top = max([float(bar["high"]) for bar in bars] + ([limit.value] if limit else []))
    across = alt.Scale(domain=[0, top * 1.18 or 1], nice=False)
    layers = [
        alt.Chart(data)
        .mark_bar(height=14)
        .encode(
            x=alt.X("value:Q", scale=across, axis=alt.Axis(title=axis, tickCount=5)),
            y=rows,
            color=alt.Color("standing:N", scale=standing_colors(present)),
        ),
        alt.Chart(data).mark_rule(color=INK, strokeWidth=1.3).encode(x="low:Q", x2="high:Q", y=rows),
    ]
    if limit:
        value = alt.InlineData(values=[{"limit": limit.value}])
        layers.append(alt.Chart(value).mark_rule(color=LIMIT, strokeDash=[5, 4]).encode(x="limit:Q"))
    layers += [mark.encode(x="high:Q", y=rows, text="shown:N") for mark in haloed(alt.Chart(data), align="left", dx=5)]
    return alt.LayerChart(layer=layers, width=PLOT_WIDTH + AXIS_WIDTH - _names_px(bars), height=_STEP_PX * len(bars))


def _names_px(bars: list[dict[str, str | float]]) -> float:
    """The room that the longest name takes left of the bars."""
    return min(max(len(str(bar["name"])) for bar in bars) * CHARACTER_PX, _LONGEST_NAME_PX)
