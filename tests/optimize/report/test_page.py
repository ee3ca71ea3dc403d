import re
from pathlib import Path

import pytest

import optimize.report
from optimize.report.account import BUILT, QUICK, STALE
from optimize.report.page import as_html
from tests.optimize.report import results
from tests.optimize.report.pages import Page, html

MOST_BYTES = 2_000_000
KINDS = ["won", "without_winner", "all_failed", "quick", "built", "inconclusive", "broken", "many", "hostile", "bare"]
STYLE = (Path(optimize.report.__file__).parent / "templates" / "page.css").read_text()


@pytest.mark.parametrize("name", KINDS)
def test_page_is_whole_and_stands_alone(name: str) -> None:
    text = html(name)
    page = Page(text)
    assert page.faults == []
    assert len(text.encode()) < MOST_BYTES
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    names = [(name, value) for _, attributes in page.elements for name, value in attributes.items()]
    assert not [name for name, _ in names if name.startswith("on")]
    links = [value for name, value in names if name.endswith(("href", "src"))]
    assert all(link.startswith("#") for link in links)
    ids = [value for name, value in names if name == "id"]
    assert len(ids) == len(set(ids))
    assert "url(" not in text.replace("url(#", "")


def test_page_forbids_itself_to_ask_for_anything() -> None:
    (policy,) = [meta["content"] for meta in Page(html("won")).tags("meta") if meta.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_verdict_stands_before_everything_else() -> None:
    text = Page(html("won")).text
    order = [
        "int8-dynamic@onnxruntime-cpu wins",
        "Candidates against budgets",
        "Why the others lost",
        "Charts",
        "Evidence",
    ]
    order += ["Answers that changed", "The run", "How to read this"]
    found = [text.index(heading, text.index("Proveserve export report\n")) for heading in order]
    assert found == sorted(found)


def test_page_shows_the_figures_behind_the_verdict() -> None:
    text = Page(html("won")).text
    for said in (
        "at most 40 ms",
        "13.72 to 14.28 ms",
        "evidence of latency.p99_ms",
        "Size is 91 MB: 51 MB (127%) over its limit of 40 MB",
        "3, 23, 43, 63",
        "0: 41, 1: 12",
        "48 nodes changed precision",
        "3 steps in 46.0 s, 1 from the cache",
        "int8-dynamic@onnxruntime-cpu: latency up to 408 calls",
        "A processor, 2 cores, 16,000 MB of memory",
        "onnxruntime 1.31.1",
        "/registry/models/sentiment/3/manifest.json",
    ):
        assert said in text


def test_classes_that_lost_most_come_first_and_are_not_endless() -> None:
    lost = {f"class {i}": i for i in range(1, 30)}
    made = results.result("m", results.candidate("fp32@x", "over-budget", lost_by_class=lost))
    text = Page(as_html([made])).text
    assert text.index("class 29: 29") < text.index("class 28: 28") < text.index("class 20: 20")
    assert "class 19:" not in text


def test_every_chart_has_words_for_who_cannot_see_it() -> None:
    page = Page(html("won"))
    described = [attributes["aria-label"] for attributes in page.tags("div") if attributes.get("role") == "img"]
    assert len(described) == len(page.tags("figure")) == 7
    assert any("int8-dynamic (winner) 14 ms with a drop of 0.0004" in words for words in described)
    assert all(len(words) > 40 for words in described)


def test_partial_stale_and_missing_models_are_said_aloud() -> None:
    text = Page(as_html([results.quick(), results.built()], stale=frozenset({"quick"}), absent=("forgotten",))).text
    assert QUICK in text
    assert BUILT in text
    assert STALE in text
    assert "Declared, but never exported: forgotten." in text
    assert QUICK not in Page(html("won")).text


def test_open_verdicts_say_what_would_settle_them() -> None:
    text = Page(html("inconclusive")).text
    assert "What would settle it" in text
    assert "1,234 samples so far; about 4,378 in all would settle it." in text
    assert "What would settle it" not in Page(html("won")).text


def test_several_models_start_with_a_table_that_leads_to_each() -> None:
    page = Page(html("won", "broken"))
    targets = [attributes["href"] for attributes in page.tags("a")]
    assert targets == ["#model-1", "#model-2"]
    assert {"model-1", "model-2"} <= {attributes.get("id") for _, attributes in page.elements}
    assert "1 of 2 models has a winner" in page.text


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    page = Page(html("hostile"))
    said = "<script>alert('x')</script><img src=x onerror=alert(1)>"
    assert page.text.count(said) > 12
    assert "{{7*7}} {% raw %}" in page.text
    assert "\x1b" not in html("hostile")
    assert "\x00" not in html("hostile")


def test_tables_scroll_in_themselves_and_name_their_heads() -> None:
    page = Page(html("many"))
    assert len([a for a in page.tags("div") if a.get("class") == "scroll"]) == len(page.tags("table"))
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in page.tags("div") if a.get("class") == "scroll")
    assert all(a.get("scope") in ("col", "row") for a in page.tags("th"))


def test_only_the_winner_of_many_has_its_evidence_open() -> None:
    opened = ["open" in attributes for attributes in Page(html("many")).tags("details")]
    assert len(opened) == 21
    assert opened.count(True) == 1


def luminance(color: str) -> float:
    """WCAG 2.2: relative luminance of an sRGB colour."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ("ink", "paper"),
        ("muted", "paper"),
        ("good", "good-wash"),
        ("bad", "bad-wash"),
        ("open", "open-wash"),
        ("quiet", "quiet-wash"),
    ],
)
def test_text_stands_out_from_its_background(ink: str, paper: str) -> None:
    colors = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", STYLE))
    light, dark = sorted((luminance(colors[ink]), luminance(colors[paper])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, level AA
