"""What an export leaves for people and programs, against files in `golden/`: a change of a format shows in their diff.

Each difference that is committed is one that CHANGELOG.md names. No process starts, no clock runs, and the machine is made up, so
that the files are the same everywhere. The project's folder is shown as /project, and no number has more than twelve digits, since
the last ones depend on the processor.
"""

import re
import shutil
from pathlib import Path

import pytest

from optimize import pipeline
from optimize.manifest import Machine
from optimize.project import read
from optimize.registry import Registry
from optimize.report import outputs
from optimize.report.outputs import Findings
from tests import golden
from tests.optimize.fake_stages import Candidate, FakeStages

GOLDEN = Path(__file__).with_name("golden")
LONG_NUMBER = re.compile(r"-?\d+\.\d{9,}(?:e[+-]?\d+)?")
CANDIDATES = {
    "source": Candidate(ms=4.0, row_ms=2.0),
    "fp32": Candidate(ms=2.0, row_ms=1.0),  # keeps every budget of `plain`, and loses
    "fp16": Candidate(breaks={"build": "nothing was converted to fp16"}),
    "int8-dynamic": Candidate(ms=1.5, wrong=0.035, peak_mb=400.0),  # over budget in `rich`, undecided in `plain`
    "int8-static": Candidate(
        ms=1.0, row_ms=0.4, threads_gain=2.2, wrong=0.01, mixed=0.004, slow=0.002, slow_ms=7.0
    ),  # wins
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text of every golden file, as an export, a validation on another machine and a report write it now."""
    folder = tmp_path_factory.mktemp("project")
    budget = Path(shutil.copy(GOLDEN / "budgets.toml", folder))
    stages = FakeStages(CANDIDATES, noise=0.004)
    results = list(pipeline.export(read(budget), pipeline.Options(), environment=stages.environment()))
    elsewhere = stages.environment(machine=Machine("Other CPU", 4, 16000, ()))
    judged = list(pipeline.validate(read(budget), pipeline.Options(("rich", "plain")), None, environment=elsewhere))
    registry = Registry(folder / "artifacts")
    outputs.write(outputs.collect(budget), folder, ("json", "md"))
    texts = {
        "export.json": outputs.document(Findings(tuple(results))),
        "validate.json": outputs.document(outputs.of_run(registry, judged)),
        "report.json": (folder / "report.json").read_text(),
        "report.md": (folder / "report.md").read_text(),
        "rich-manifest.json": Path(registry.manifest_path("rich", 1)).read_text(),
        "plain-manifest.json": Path(registry.manifest_path("plain", 1)).read_text(),
    }
    return {name: _settled(text, folder) for name, text in texts.items()}


def _settled(text: str, folder: Path) -> str:
    """The text without what differs from machine to machine."""
    return LONG_NUMBER.sub(lambda found: f"{float(found[0]):.12g}", text.replace(str(folder), "/project"))


@pytest.mark.parametrize(
    "name",
    ["export.json", "validate.json", "report.json", "report.md", "rich-manifest.json", "plain-manifest.json"],
)
def test_file_is_unchanged(written: dict[str, str], name: str) -> None:
    golden.check(GOLDEN / name, written[name])


def test_golden_files_hold_every_status(written: dict[str, str]) -> None:
    statuses = set(re.findall(r'"status": "([^"]+)"', written["export.json"]))
    assert statuses == {
        "not-measured",
        "winner",
        "inconclusive",
        "over-budget",
        "failed",
        "n/a",
        "qualified",
        "screened-out",
    }
