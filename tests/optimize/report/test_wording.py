import pytest

from optimize.budgets import Limit
from optimize.report import wording
from tests.optimize.report.results import candidate, verdict


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("latency.p99_ms", 0.0627, "0.0627 ms"),
        ("memory.peak_mb", 1652.4, "1,652 MB"),
        ("size.mb", 23.1, "23.1 MB"),
        ("throughput.qps", 150, "150 requests/s"),
        ("speed.rows_per_s", 125339.8, "125,340 rows/s"),
        ("speed.min_speedup", 2.31, "2.31 times"),
        ("speed.max_slowdown", 1.05, "1.05 times"),
        ("accuracy.max_drop", 0.0004, "0.0004"),
        ("cost.per_million", 0.2, "0.2"),
        ("end_to_end.p50_ms", 3, "3 ms"),
        ("something.new", 3.0, "3"),
    ],
)
def test_figure_has_the_unit_of_its_key(key: str, value: float, said: str) -> None:
    assert wording.quantity(key, value) == said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.0, 2.0, "1 to 2 ms"),
        (None, 2.0, "at most 2 ms"),
        (1.0, None, "at least 1 ms"),
        (None, None, "—"),
        (1.0, 1.0, "—"),
    ],
)
def test_bounds_may_be_missing(low: float | None, high: float | None, said: str) -> None:
    assert wording.bounds("latency.p99_ms", low, high) == said


@pytest.mark.parametrize(
    ("limit", "observed", "said"),
    [
        (Limit("size.mb", 40, "lower"), 91, "51 MB (127%) over its limit"),
        (Limit("accuracy.min_agreement", 0.95, "higher"), 0.72, "0.23 (24%) under its limit"),
        (Limit("latency.p99_ms", 40, "lower"), 40.01, "0.01 ms (under 1%) over its limit"),
        (Limit("accuracy.max_drop", 0, "lower"), 0.1, "0.1 over its limit"),
    ],
)
def test_shortfall_is_told_in_its_unit_and_as_a_share(limit: Limit, observed: float, said: str) -> None:
    assert wording.shortfall(limit, observed) == said


@pytest.mark.parametrize(
    ("key", "counted"),
    [("accuracy.max_drop", "samples"), ("latency.p99_ms", "calls"), ("speed.min_speedup", "pairs of blocks")],
)
def test_what_would_settle_a_verdict_is_counted_in_its_own_units(key: str, counted: str) -> None:
    said = wording.settling(verdict(key, 1.0, "INCONCLUSIVE", 5000))
    assert said == f"1,234 {counted} so far; about 5,000 in all would settle it"


def test_without_a_number_the_evidence_says_why() -> None:
    assert wording.settling(verdict("latency.p99_ms", 1.0, "INCONCLUSIVE")) == "evidence of latency.p99_ms"


def test_chart_names_are_short_where_that_is_unmistakable() -> None:
    candidates = (candidate("source@pytorch"), candidate("fp32@onnxruntime-cpu"), candidate("fp32@onnxruntime-cuda"))
    assert list(wording.short_names(candidates).values()) == ["source", "fp32@onnxruntime-cpu", "fp32@onnxruntime-cuda"]


def test_plain_text_stands_on_one_line_without_control_characters() -> None:
    assert wording.plain("a\x1b[31mb\x00\n\tc\u202e") == "a [31mb c"


@pytest.mark.parametrize(("created", "said"), [("2026-01-02T03:04:05+00:00", "2026-01-02 03:04:05 UTC"), ("", "—")])
def test_time_is_written_as_people_write_it(created: str, said: str) -> None:
    assert wording.moment(created) == said
