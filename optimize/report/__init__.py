"""Pure: what an export found, in several forms.

    served      how to run a published version, and which budgets it keeps on other machines
    document    the JSON document of `--json`
    terminal    a result for a terminal, within 100 columns
    evidence    all that was found of one candidate, for a terminal
    markdown    a summary for CI
    page        one offline HTML page, with charts; imports the plotting library, so it is not imported here

All of them start from `account`, what a report says of a result, and `wording`, how it words a figure; `margin` finds the tightest
budget. `outputs` reads the results that exports kept, and writes the files.
"""

from optimize.report.document import as_json
from optimize.report.evidence import explained, explanation
from optimize.report.markdown import as_markdown
from optimize.report.served import Served
from optimize.report.terminal import as_lines

__all__ = ["Served", "as_json", "as_lines", "as_markdown", "explained", "explanation"]
