import msgspec
import pytest

from optimize.budgets import Limit
from optimize.errors import UserError
from optimize.manifest import Measurement, Result, Verdict
from optimize.report.evidence import explained
from optimize.report.margin import margin, tightest
from optimize.report.terminal import WIDTH, as_lines
from optimize.report.wording import brief, with_bound
from tests.optimize.report import results
from tests.optimize.report.results import candidate, figures

ALL = [
    results.won(),
    results.many(),
    results.inconclusive(),
    results.quick(),
    results.built(),
    results.all_failed(),
    results.hostile(),
]


def text(result: Result, *next_commands: tuple[str, str]) -> list[str]:
    return [line.plain for line in as_lines(result, next_commands)]


def row(lines: list[str], title: str) -> str:
    return next(line for line in lines if line.startswith(f"  {title}"))


def test_winner_comes_first_in_the_headline_and_in_the_table() -> None:
    lines = text(results.won())
    assert lines[1] == "sentiment: int8-dynamic@onnxruntime-cpu wins"
    assert row(lines, "budget").split() == ["budget", "limit", "int8-dynamic", "fp32", "int8-static"]


def test_each_cell_has_a_mark_the_figure_and_the_bound_that_decides() -> None:
    lines = text(results.won())
    assert "≤ 40 MB " in row(lines, "Size")
    assert "  ✓ 23.1 (≤ 23.6)  " in row(lines, "Size")
    assert "  ✗ 91 (≥ 89.2)  " in row(lines, "Size")
    assert row(lines, "Latency p99").rstrip().endswith("—")
    assert "? 39 (38.2 to 39.8)" in row(text(results.inconclusive()), "Latency p99")


@pytest.mark.parametrize("result", ALL, ids=lambda result: result.name[:10])
def test_no_line_is_wider_than_100_columns_or_has_control_characters(result: Result) -> None:
    lines = text(result)
    assert max(map(len, lines)) <= WIDTH
    assert all(line.isprintable() for line in lines)


def test_each_loser_has_one_line() -> None:
    lines = text(results.won())
    start = lines.index("Why the others lost:") + 1
    assert lines[start].startswith("  fp32: over budget: Size is 91 MB: 51 MB (127%) over its limit of 40 MB; ")
    assert [line.split(":")[0].strip() for line in lines[start : start + 3]] == ["fp32", "fp16", "int8-static"]
    assert lines[start + 3] == ""


def runner_up() -> Result:
    """A candidate that passed all it was put to, and lost to another before its load test."""
    won = results.result("m", candidate("fp32@x", "winner", observed=figures(0, 1, 9, 600, 20, 2)))
    lost = candidate(
        "int8-static@x",
        "inconclusive",
        "does not win: int8-static@x against fp32@x: a tie; qualified so far",
        observed=figures(0, 1, 9, 600, 20, 2),
    )
    budgets = msgspec.structs.replace(won.budgets, throughput=msgspec.structs.replace(won.budgets.throughput, qps=100))
    return msgspec.structs.replace(won, budgets=budgets, candidates=(*won.candidates, lost))


def test_qualified_loser_does_not_read_as_undecided() -> None:
    lines = text(runner_up())
    assert any(line.startswith("  int8-static: qualified, not best: ") for line in lines)
    assert not any("inconclusive" in line or "undecided" in line for line in lines)


def test_candidate_with_an_undecided_budget_reads_as_undecided() -> None:
    lines = text(results.inconclusive())
    assert any(line.startswith("  int8-dynamic: undecided: ") for line in lines)


def test_error_of_the_input_is_one_line() -> None:
    assert text(results.broken()) == ["error: absent: models.py:model: no such file"]


def test_next_commands_come_last() -> None:
    assert text(results.won(), ("optimize serve", "serve it"))[-2:] == ["Next:", "  optimize serve  serve it"]


def test_tightest_budget_has_the_smallest_margin() -> None:
    won = results.won()
    winner = next(found for found in won.candidates if found.status == "winner")
    declared = (Limit("latency.p99_ms", 40.0, "lower"), Limit("size.mb", 40.0, "lower"))
    assert tightest(winner, declared) == "Size, 23.56 MB of at most 40: 41% to spare"
    assert tightest(winner, ()) == ""
    assert "Tightest budget of int8-dynamic: Agreement, 0.9516 of at least 0.95: 3% to spare" in text(won)


def test_margin_of_a_share_is_a_part_of_what_may_be_lost() -> None:
    assert margin(Limit("accuracy.min_agreement", 0.9, "higher"), 0.95) == pytest.approx(0.5)
    assert margin(Limit("speed.min_speedup", 2.0, "higher"), 3.0) == pytest.approx(0.5)
    assert margin(Limit("latency.p99_ms", 4.0, "lower"), 3.0) == pytest.approx(0.25)


def test_margin_of_a_rate_is_what_could_have_been_answered() -> None:
    kept = Verdict("throughput.qps", 100.0, 99.8, None, None, 16_000, "PASS", "")
    limit = Limit("throughput.qps", 100.0, "higher")
    capacity = Measurement("throughput.capacity_qps", 250.0, "requests/s", 9, "estimate")
    found = candidate("fp32@x", verdicts=(kept,), measurements=(capacity,))
    assert tightest(found, (limit,)) == "Throughput, 250 requests/s of at least 100: 150% to spare"
    assert tightest(candidate("fp32@x", verdicts=(kept,)), (limit,)) == ""
    assert with_bound(kept, limit, 250.0) == "kept (up to 250)"


def test_figure_does_not_read_as_its_limit_unless_it_is() -> None:
    limit = Limit("accuracy.min_agreement", 0.95, "higher")
    assert brief(0.9501, limit) == "0.9501"
    assert brief(0.94996, limit) == "0.94996"
    assert brief(0.95, limit) == "0.95"
    assert brief(0.97234, limit) == "0.972"


def test_explained_candidate_has_every_verdict_with_its_evidence() -> None:
    lines = [line.plain for line in explained([results.won()], "fp32")]
    assert lines[1] == "sentiment, fp32@onnxruntime-cpu: over budget"
    assert "  ✗ Size (size.mb): FAIL, 91 MB, 89.18 to 92.82 MB, limit at most 40 MB" in lines
    assert "      evidence of size.mb" in lines
    assert "  note: 48 nodes changed precision" in [
        line.plain for line in explained([results.won()], "int8-dynamic@onnxruntime-cpu")
    ]


def test_explaining_what_is_not_there_names_what_is() -> None:
    with pytest.raises(UserError, match="no such candidate; there are source@pytorch, fp32@onnxruntime-cpu, "):
        explained([results.won()], "fp8")


def test_explained_text_has_no_control_characters() -> None:
    assert all(line.plain.isprintable() for line in explained([results.hostile()], "fp32"))
