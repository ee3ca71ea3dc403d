"""Golden files: text that is committed, and that the code must still produce.

After a change that is meant, `PROVESERVE_GOLDEN=write pytest FILE` writes them anew; the diff then shows what users will notice.
"""

import difflib
import os
from pathlib import Path

import pytest

WRITE = "PROVESERVE_GOLDEN"


def check(path: Path, text: str) -> None:
    """Compare text with the golden file at `path`, or write it there."""
    if os.environ.get(WRITE) == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    golden = path.read_text(encoding="utf-8") if path.exists() else ""
    if text != golden:
        lines = difflib.unified_diff(golden.splitlines(), text.splitlines(), "golden", "now", lineterm="", n=0)
        diff = "\n".join(lines) or "only line ends differ"
        pytest.fail(f"{path} differs; if that is meant, run this test with {WRITE}=write\n{diff}", pytrace=False)
