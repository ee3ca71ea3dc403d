"""Pure: what an export found, told in several ways.

    document    the JSON document of `--json`
    terminal    lines for a terminal
    markdown    a summary for CI
    page        one offline HTML page, with charts; imports the plotting library, so it is not imported here

All of them start from `account`, which holds what is said of a result, and `wording`, which holds how a figure is said.
"""

from optimize.report.document import as_json
from optimize.report.markdown import as_markdown
from optimize.report.terminal import as_lines

__all__ = ["as_json", "as_lines", "as_markdown"]
