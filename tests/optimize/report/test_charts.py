import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.budgets import limits
from optimize.manifest import CurvePoint, Histogram, Measurement, Result
from optimize.report.charts import figures
from optimize.report.charts.distributions import densities
from optimize.report.charts.pareto import Point, front
from optimize.report.charts.placing import Box, labelled, log_ticks, span
from tests.optimize.report import results
from tests.optimize.report.results import candidate

POSITIVE = st.floats(1e-4, 1e6)


@functools.cache
def drawn(name: str) -> dict[str, str]:
    return {figure.title: figure.svg() for figure in figures(getattr(results, name)())}


def titles(result: Result) -> list[str]:
    return [figure.title for figure in figures(result)]


def test_each_measured_quantity_has_its_chart() -> None:
    assert titles(results.won()) == [
        "Accuracy against latency",
        "Latency of single calls",
        "Peak memory",
        "Size",
        "Speed-up",
        "Cost per million rows",
        "Latency per batch size",
    ]


def test_what_was_not_measured_has_no_chart() -> None:
    assert titles(results.all_failed()) == titles(results.broken()) == titles(results.bare()) == []
    assert titles(results.quick()) == ["Size"]


def test_charts_show_every_measured_candidate_by_name() -> None:
    for title in ("Accuracy against latency", "Latency of single calls", "Size"):
        assert "fp32" in drawn("won")[title]
        assert "int8-dynamic" in drawn("won")[title]
    assert "sequence 128" in drawn("won")["Latency per batch size"]


def test_no_text_of_ours_becomes_markup_in_a_drawing() -> None:
    for svg in drawn("hostile").values():
        assert "<script" not in svg
        assert "<img" not in svg


def test_limit_that_would_squeeze_the_chart_is_told_instead() -> None:
    quick_one = results.result(
        "m",
        candidate("fp32@x", observed=results.figures(0, 1, 0.1, 600, 20, 2)),
        candidate("int8-static@x", observed=results.figures(0.01, 1, 0.05, 600, 20, 2)),
    )
    assert "The limit of 40 ms lies beyond the right edge." in figures(quick_one)[0].caption


def test_candidates_are_compared_by_the_best_latency_that_two_of_them_have() -> None:
    def screened(name: str, ms: float) -> Measurement:
        return Measurement("screen.p50_ms", ms, "ms", 20, name)

    drop = Measurement("accuracy.max_drop", 0.01, "share", 256, "screen")
    p99 = Measurement("latency.p99_ms", 5.0, "ms", 408, "calls")
    one = candidate("fp32@x", measurements=(screened("a", 3.0), drop, p99))
    two = candidate("int8-static@x", measurements=(screened("b", 2.0), drop))
    (figure,) = figures(results.result("m", one, two))
    assert figure.alt.startswith("Scatter chart of Median of the screen against accuracy drop")


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_degenerate_figures_are_drawn_all_the_same(value: float) -> None:
    same = [
        candidate(
            f"{precision}@x",
            measurements=(
                Measurement("size.mb", value, "MB", 1, "bytes"),
                Measurement("latency.p99_ms", 5.0, "ms", 1, "calls"),
                Measurement("accuracy.max_drop", 0.0, "share", 1, "pairs"),
            ),
            latencies=Histogram((5.0, 5.001), (7,)),
            curve=(CurvePoint({}, 1, 2.0, 2.0, 50),),
        )
        for precision in ("fp32", "fp16")
    ]
    made = figures(results.result("m", *same))
    assert [figure.title for figure in made][:3] == ["Accuracy against latency", "Latency of single calls", "Size"]
    assert all("NaN" not in figure.svg() for figure in made)


def test_front_holds_whom_nobody_beats_on_both() -> None:
    def point(name: str, ms: float, drop: float) -> Point:
        return Point(name, "out", ms, ms, ms, drop, drop, drop)

    points = [point("slow but right", 9, 0.0), point("beaten", 9, 0.5), point("fast", 1, 0.2), point("twin", 1, 0.2)]
    assert [found.name for found in front(points)] == ["fast", "slow but right"]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any))
def test_density_of_a_histogram_holds_all_calls(counts: list[int]) -> None:
    edges = tuple(1.5**i for i in range(len(counts) + 1))
    bars = densities(Histogram(edges, tuple(counts)))
    width = 0.17609125905568124  # log10 of 1.5
    assert sum(bar["density"] for bar in bars) * width == pytest.approx(1)
    assert len(bars) == sum(map(bool, counts))


@given(st.lists(POSITIVE, min_size=1, max_size=20), st.booleans())
def test_span_holds_every_value_with_room(values: list[float], may_log: bool) -> None:
    found = span(values, may_log=may_log)
    assert all(0 <= found.position(value) < 1 for value in values)


@given(POSITIVE, st.floats(1.05, 1e6))
def test_log_axis_has_a_few_round_ticks(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 14
    assert all(low * 0.999999 <= tick <= low * ratio * 1.000001 for tick in ticks)
    assert ticks == sorted(set(ticks))


@given(
    st.lists(st.tuples(st.floats(0, 400), st.floats(0, 270), st.text("abcdef-8", min_size=1, max_size=30)), max_size=20)
)
def test_labels_cover_neither_one_another_nor_a_point(points: list[tuple[float, float, str]]) -> None:
    placed = labelled(points, 400, 270)
    assert len(placed) == len(points)
    # A hair smaller than they are: two labels may touch.
    boxes = [Box(x - len(text) * 3.19, y - 6.49, x + len(text) * 3.19, y + 6.49) for x, y, text in filter(None, placed)]
    assert all(box.inside(400, 270) for box in boxes)
    assert not any(a.meets(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not any(box.meets(Box(x - 1, y - 1, x + 1, y + 1)) for box in boxes for x, y, _ in points)


def test_limits_of_every_key_can_be_drawn() -> None:
    assert {limit.key for limit in limits(results.BUDGETS)} == set(results.LIMITS)
