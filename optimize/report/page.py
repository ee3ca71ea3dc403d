"""One HTML page that stands alone: no script, no request, and every chart inline.

Jinja escapes everything that the templates print, except the style sheet and the charts, which Vega escapes.
"""

from collections.abc import Mapping, Sequence

import jinja2
from markupsafe import Markup
from msgspec import Struct

from optimize.manifest import Result
from optimize.report.account import Account, account, reused, summary, tone_of
from optimize.report.charts import figures
from optimize.report.charts.figure import Figure
from optimize.report.served import NOTHING, Judgement, Layout, Served, judgements, layouts
from optimize.report.wording import NONE, asked, moment, number, printable, title

MOST_CLASSES = 10
_OPEN_EVIDENCE = 6


class Drawn(Struct, frozen=True):
    """A chart with its words; `svg` is trusted markup."""

    figure: Figure
    svg: Markup


class Section(Struct, frozen=True):
    """One model's part of the page."""

    account: Account
    figures: tuple[Drawn, ...]
    layouts: tuple[Layout, ...]
    judgements: tuple[Judgement, ...]


def as_html(
    results: Sequence[Result],
    *,
    stale: frozenset[str] = frozenset(),
    absent: Sequence[str] = (),
    served: Mapping[str, Served] = NOTHING,
) -> str:
    """The page of all results.

    `stale` names the models whose budgets have changed since, `absent` those that were never exported; `served` has what the registry
    knows of published versions, by model.
    """
    sections = tuple(_section(result, served.get(result.name), stale=result.name in stale) for result in results)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=summary(tuple(results)),
            sections=sections,
            absent=absent,
            most_classes=MOST_CLASSES,
            open_evidence=_OPEN_EVIDENCE,
        )
    )


def _section(result: Result, served: Served | None, *, stale: bool) -> Section:
    # Only the output of Vega is trusted as markup: Vega escapes the text in it.
    drawn = tuple(Drawn(figure, Markup(figure.svg())) for figure in figures(result))  # noqa: S704
    return Section(account(result, stale=stale), drawn, layouts(served), judgements(result, served))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("optimize.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    environment.globals.update(
        NONE=NONE, asked=asked, moment=moment, number=number, reused=reused, title_of=title, tone_of=tone_of
    )
    return environment


def _finalized(value: object) -> object:
    """Text without control characters; markup and numbers as they are."""
    return printable(value) if type(value) is str else value
