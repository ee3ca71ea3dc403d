from pathlib import Path

import msgspec
import pytest

from optimize.budgets import ModelBudgets
from optimize.errors import ArtifactError, CandidateError, ProcessError
from optimize.execution.cache import Cache
from optimize.execution.isolation import Isolated
from optimize.execution.stage_runner import StageRunner, stored
from optimize.manifest import Machine
from tests.optimize import steps


class Sum(msgspec.Struct, frozen=True):
    total: int


def runner(
    root: Path,
    *,
    timeout_s: float = 30.0,
    cores: int = 2,
    tools: str = "1",
    budgets: ModelBudgets = ModelBudgets(source="m.onnx"),  # noqa: B008 - immutable
) -> StageRunner:
    machine = Machine("test", cores, 1024, ())
    return StageRunner("m", budgets, root, Cache(root / "cache"), Isolated(timeout_s), machine, {"tool": tools})


def entries(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_same_question_is_answered_once(tmp_path: Path) -> None:
    first, second = runner(tmp_path), runner(tmp_path)
    assert first.measured("add", int, ("a",), steps.add, 1) == second.measured("add", int, ("a",), steps.add, 1) == 1
    assert [(stage.stage, stage.cached) for stage in first.stages + second.stages] == [("add", False), ("add", True)]


@pytest.mark.parametrize("other", [{"cores": 3}, {"tools": "2"}])
def test_measurement_holds_for_its_machine_and_tools_alone(tmp_path: Path, other: dict) -> None:
    runner(tmp_path).measured("add", int, (), steps.add, 1)
    elsewhere = runner(tmp_path, **other)
    elsewhere.measured("add", int, (), steps.add, 1)
    assert not elsewhere.stages[0].cached


def test_built_files_hold_for_every_machine(tmp_path: Path) -> None:
    folder = runner(tmp_path).build("build", (), steps.builds, 3)
    assert runner(tmp_path, cores=3).build("build", (), steps.builds, 4) == folder
    assert (folder / "file").read_text() == "3"
    assert stored(folder, Sum) == Sum(3)


def test_failure_of_the_function_is_remembered(tmp_path: Path) -> None:
    for function in (steps.raises, steps.add):  # the second would answer, were it asked
        with pytest.raises(CandidateError, match=r"^ValueError: 1$"):
            runner(tmp_path).measured("stage", int, (), function, 1)


def test_death_of_the_process_is_not_remembered(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="time limit"):
        runner(tmp_path, timeout_s=0.2).measured("stage", int, (), steps.sleeps, tmp_path)
    assert runner(tmp_path).measured("stage", int, (), steps.add, 1) == 1


def test_measurement_of_another_release_is_taken_again(tmp_path: Path) -> None:
    runner(tmp_path).measured("stage", int, (), steps.add, 1)
    assert runner(tmp_path).measured("stage", list[int], (), steps.listed, 5) == [5]


def test_build_of_another_release_is_told(tmp_path: Path) -> None:
    folder = runner(tmp_path).build("build", (), steps.builds, 3)
    with pytest.raises(ArtifactError, match=r"another release of this tool .*; export with --no-cache"):
        stored(folder, Machine)
    (folder / "record.json").unlink()
    with pytest.raises(ArtifactError, match=r"was damaged, .*; export with --no-cache"):
        stored(folder, Sum)


def test_failed_build_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match="ValueError"):
        runner(tmp_path).build("build", (), steps.raises_with_folder, "x")
    assert stored(runner(tmp_path).build("build", (), steps.builds, 3), Sum) == Sum(3)
    assert not [path for path in entries(tmp_path) if any(part.startswith(".") for part in path.parts)]
