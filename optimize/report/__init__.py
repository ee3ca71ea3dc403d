"""Pure: what an export found, told in several ways.

    served      how a published version is to be run, and what it was found to keep on other machines
    document    the JSON document of `--json`
    terminal    lines for a terminal
    markdown    a summary for CI
    page        one offline HTML page, with charts; imports the plotting library, so it is not imported here

All of them start from `account`, which holds what is said of a result, and `wording`, which holds how a figure is said.
"""

from optimize.report.document import as_json
from optimize.report.markdown import as_markdown
from optimize.report.served import Served
from optimize.report.terminal import as_lines

__all__ = ["Served", "as_json", "as_lines", "as_markdown"]
