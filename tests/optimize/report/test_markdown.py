import pytest
from markdown_it import MarkdownIt

from optimize.report import as_markdown
from optimize.report.account import QUICK, STALE
from tests.optimize.report import results
from tests.optimize.report.pages import Page


def rendered(text: str) -> Page:
    return Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def widths(page: Page) -> list[set[int]]:
    """For each table the numbers of cells that its rows have."""
    tables: list[list[int]] = []
    for tag, _ in page.elements:
        if tag == "table":
            tables.append([])
        elif tag == "tr":
            tables[-1].append(0)
        elif tag in ("td", "th"):
            tables[-1][-1] += 1
    return [set(rows) for rows in tables]


def test_verdict_comes_first() -> None:
    lines = [line for line in as_markdown([results.won()]).splitlines() if line]
    assert lines[0] == "# sentiment: int8-dynamic@onnxruntime-cpu wins"
    assert lines[2].startswith("**int8-dynamic@onnxruntime-cpu wins**: published as version 3")


def test_several_models_start_with_a_table_of_outcomes() -> None:
    text = as_markdown([results.won(), results.broken()], absent=("forgotten",))
    assert text.startswith("# 1 of 2 models has a winner\n\n| Model | Outcome | Exit code |")
    assert "| absent | The export could not run: there is something to fix first | 2 |" in text
    assert "Declared, but never exported: forgotten." in text


def test_summary_holds_candidates_losers_and_what_would_settle_the_open_ones() -> None:
    text = as_markdown([results.won(), results.inconclusive()])
    assert "| int8-dynamic@onnxruntime-cpu | winner | 0.0004 PASS |" in text
    assert "- **fp32@onnxruntime-cpu** (over budget): Size is 91 MB: 51 MB (127%) over its limit of 40 MB;" in text
    assert "- **int8-dynamic@onnxruntime-cpu**, Accuracy drop: 1,234 samples so far; about 4,378 in all" in text
    assert "2 cores, 16,000 MB, with proveserve 0.1.0" in text


def test_partial_and_stale_runs_are_marked_before_the_verdict() -> None:
    text = as_markdown([results.quick()], stale=frozenset({"quick"}))
    assert text.index(QUICK) < text.index(STALE.partition(" since")[0]) < text.index("came through the screens**")


@pytest.mark.parametrize(
    "name", ["won", "without_winner", "all_failed", "quick", "inconclusive", "broken", "many", "bare"]
)
def test_every_kind_of_result_renders_with_whole_tables(name: str) -> None:
    page = rendered(as_markdown([getattr(results, name)()]))
    assert page.faults == []
    assert bool(widths(page)) == (name not in ("broken", "bare"))
    assert all(len(rows) == 1 for rows in widths(page))


def test_hostile_text_stays_text() -> None:
    page = rendered(as_markdown([results.hostile(), results.won()]))
    assert page.tags("script") == page.tags("img") == page.tags("a") == []
    assert page.faults == []
    assert "<script>alert('x')</script>" in page.text
    assert page.tags("em") == []
    assert all(len(rows) == 1 for rows in widths(page)), "a pipe broke a cell in two"
