"""What an export costs, cold and from the cache, and what its winner gains: ``python -m tests.benchmarks.export``.

Exports the `digits` example into a folder of its own: the screens alone from nothing, then everything measured, then again with
nothing changed. The winner is held against PyTorch eager by the interleaved run that the export itself made, on the same threads.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
OPTIMIZE = str(Path(sys.executable).with_name("optimize"))


def export_s(folder: Path, *arguments: str) -> float:
    """Seconds of one export of digits; it may end with any verdict, but not with a fault."""
    start = time.monotonic()
    command = [OPTIMIZE, "export", "--model", "digits", *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=1800)
    if ended.returncode not in {0, 1, 3}:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr}")
    return time.monotonic() - start


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(REPOSITORY / "budgets.toml", folder)
        shutil.copytree(REPOSITORY / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        quick_s = export_s(folder, "--quick")
        cold_s = export_s(folder, "--no-cache")
        again_s = export_s(folder)
        result = json.loads((folder / "artifacts/reports/digits/result.json").read_text())
    print(f"export, everything measured:    1.00  ({cold_s:.1f} s)")
    print(f"export, nothing changed:        {again_s / cold_s:.2f}  ({again_s:.1f} s)")
    print(f"export --quick, from nothing:   {quick_s / cold_s:.2f}  ({quick_s:.1f} s)")
    for trial in result["candidates"]:
        for found in (m for m in trial["measurements"] if m["key"] == "speed.min_speedup"):
            who = f"{trial['name']} ({trial['status']})"
            print(
                f"{who} against PyTorch eager, rows per second: {found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
            )


if __name__ == "__main__":
    main()
