import inspect
from pathlib import Path
from typing import get_type_hints

import msgspec

from loadtest import cli, report
from optimize.manifest import Verdict

DOCS = (Path(__file__).parents[2] / "docs" / "loadtest.md").read_text()


def test_every_key_of_the_report_is_documented():
    records = (report.Report, report.Load, report.Percentiles, report.Block, report.Generator, Verdict)
    names = {field.encode_name for record in records for field in msgspec.structs.fields(record)}
    assert [name for name in sorted(names) if f"`{name}`" not in DOCS] == []


def test_every_option_is_documented():
    hints = get_type_hints(cli.loadtest, include_extras=True)
    names = {
        str(hints[name].__metadata__[0].default).replace(
            "Ellipsis", f"--{name.replace('_', '-')}"
        )  # typer keeps an option's own name there
        for name in inspect.signature(cli.loadtest).parameters
        if name not in {"target", "model"}
    }
    assert [name for name in sorted(names) if f"`{name}`" not in DOCS] == []
