"""How a published version is run, and what other machines found of it: in words, in Markdown and on the page."""

import msgspec
import pytest

from optimize.budgets import SizeBudget
from optimize.report import Served, as_markdown
from optimize.report.page import as_html
from optimize.report.served import judgements, layouts, machine
from tests.optimize.report import results
from tests.optimize.report.pages import Page
from tests.optimize.report.test_markdown import rendered, widths


def test_operating_points_are_told_by_their_use() -> None:
    single, bulk = layouts(results.served())
    assert (single.use, single.sessions, single.batch, single.rows_per_s) == (
        "single requests",
        "2 of 1 thread",
        "8",
        "312.4",
    )
    assert (bulk.use, bulk.sessions, bulk.rows_per_s, bulk.p50, bulk.p95, bulk.n) == (
        "bulk",
        "1 of 2 threads",
        "1,340",
        "23.9 ms",
        "29 ms",
        "64",
    )
    assert layouts(None) == layouts(Served()) == ()


def test_each_machine_says_what_it_found_and_why() -> None:
    server, small, broken = judgements(results.won(), results.served())
    assert server.machine == "A server processor, 64 cores, NVIDIA L4 (driver 570.1)"
    assert (server.outcome, server.tone, server.why) == ("meets every budget", "good", ())
    assert server.rows["latency.p99_ms"].observed == "6 ms"
    assert (small.outcome, small.tone) == ("over budget", "bad")
    assert small.why[0] == "Latency p99 is 81 ms: 41 ms (102%) over its limit of 40 ms"
    assert (broken.outcome, broken.tone, broken.why, broken.rows) == (
        "could not be judged",
        "bad",
        ("the disk is full",),
        {},
    )
    assert judgements(results.won(), None) == ()
    assert machine(None) == "an unnamed machine"


def test_a_judgement_by_other_budgets_says_so() -> None:
    mine = results.won()
    other = msgspec.structs.replace(mine, budgets=msgspec.structs.replace(mine.budgets, size=SizeBudget(mb=90)))
    found = [judgement.outcome for judgement in judgements(other, results.served())]
    assert found[0] == "meets every budget, by other budgets"


SAID = (
    "Operating points",
    "2 of 1 thread",
    "1,340",
    "51.2 ms",
    "A server processor, 64 cores",
    "meets every budget",
    "A small processor, 1 core",
    "over budget",
    "could not be judged",
    "the disk is full",
    "Latency p99 is 81 ms: 41 ms (102%) over its limit of 40 ms",
    "2026-02-02 03:04:05 UTC",
)


def test_page_shows_points_and_judgements_behind_the_candidates() -> None:
    text = as_html([results.won()], served={"sentiment": results.served()})
    page = Page(text)
    assert page.faults == []
    assert all(said in page.text for said in SAID)
    order = ["Why the others lost", "Operating points", "Judged by optimize validate", "Charts"]
    found = [page.text.index(heading, page.text.index("Proveserve export report\n")) for heading in order]
    assert found == sorted(found)


def test_summary_shows_points_and_judgements() -> None:
    page = rendered(as_markdown([results.won()], served={"sentiment": results.served()}))
    assert page.faults == []
    assert all(len(rows) == 1 for rows in widths(page))
    assert all(said in page.text for said in SAID)
    assert "81 ms FAIL" in page.text


@pytest.mark.parametrize("told", [as_html, as_markdown])
def test_what_is_not_published_has_neither(told) -> None:
    text = told([results.without_winner()], served={"other": results.served()})
    assert "Operating points" not in text
    assert "optimize validate" not in text


def test_hostile_machines_stay_text() -> None:
    served = {results.HOSTILE: results.hostile_served()}
    page = Page(as_html([results.hostile()], served=served))
    assert page.faults == []
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    page = rendered(as_markdown([results.hostile()], served=served))
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert all(len(rows) == 1 for rows in widths(page))
