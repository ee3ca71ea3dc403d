from pathlib import Path

import msgspec
import pytest

from optimize.budgets import ModelBudgets
from optimize.errors import ArtifactError, CandidateError, ProcessError
from optimize.execution.cache import Cache
from optimize.execution.isolation import Isolated
from optimize.execution.keys import DigestedPath
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


def test_same_call_is_made_once(tmp_path: Path) -> None:
    first, second = runner(tmp_path), runner(tmp_path)
    assert first.measured("add", int, steps.add, 1) == second.measured("add", int, steps.add, 1) == 1
    assert [(stage.stage, stage.cached) for stage in first.times.all + second.times.all] == [
        ("add", False), ("add", True)
    ]  # fmt: skip


def test_repetition_is_measured_separately(tmp_path: Path) -> None:
    place = runner(tmp_path)
    for repetition in ("1", "2", "1"):
        place.measured("add", int, steps.add, 1, repetition=repetition)
    assert [stage.cached for stage in place.times.all] == [False, False, True]


@pytest.mark.parametrize("other", [{"cores": 3}, {"tools": "2"}])
def test_measurement_holds_only_for_its_machine_and_tools(tmp_path: Path, other: dict) -> None:
    runner(tmp_path).measured("add", int, steps.add, 1)
    elsewhere = runner(tmp_path, **other)
    elsewhere.measured("add", int, steps.add, 1)
    assert not elsewhere.times.all[0].cached


@pytest.mark.parametrize(("other", "cached"), [({"cores": 3}, True), ({"tools": "2"}, False)])
def test_built_files_hold_for_every_machine_with_the_same_tools(tmp_path: Path, other: dict, *, cached: bool) -> None:
    folder = runner(tmp_path).build("build", steps.builds, 3)
    assert (folder / "file").read_text() == "3"
    assert stored(folder, Sum) == Sum(3)
    elsewhere = runner(tmp_path, **other)
    assert (elsewhere.build("build", steps.builds, 3) == folder) == cached
    assert elsewhere.times.all[0].cached == cached


def test_answers_carry_a_digest_that_differs_with_the_call(tmp_path: Path) -> None:
    first, again = (runner(tmp_path).answers("write", steps.writes, "a", twice=True) for _ in range(2))
    assert first == again
    assert first.path.read_text() == "aa"
    others = [
        runner(tmp_path).answers("write", steps.writes, "b", twice=True),
        runner(tmp_path).answers("write", steps.writes, "a", twice=False),
        runner(tmp_path, cores=3).answers("write", steps.writes, "a", twice=True),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 4


def test_function_receives_the_path_of_a_file_whose_digest_is_the_key(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    place = runner(tmp_path)
    found = [
        place.measured("read", str, steps.reads, DigestedPath(tmp_path / name, digest))
        for name, digest in (("one", "1"), ("two", "1"), ("two", "2"))
    ]
    assert found == ["one", "one", "two"]


def test_bare_path_is_refused(tmp_path: Path) -> None:
    place = runner(tmp_path)
    with pytest.raises(TypeError, match=r"pass a file or a folder as a DigestedPath"):
        place.measured("read", str, steps.reads, tmp_path)
    with pytest.raises(TypeError, match=r"pass a file or a folder as a DigestedPath"):
        place.build("build", steps.builds, tmp_path)
    with pytest.raises(TypeError, match=r"pass a file or a folder as a DigestedPath"):
        place.answers("write", steps.writes, "a", twice=tmp_path)


def test_failure_of_the_function_is_remembered(tmp_path: Path) -> None:
    counter = tmp_path / "calls"
    for _ in range(2):
        with pytest.raises(CandidateError, match=r"^ValueError: no$"):
            runner(tmp_path).measured("stage", int, steps.counts_and_raises, DigestedPath(counter, "1"))
    assert counter.read_text() == "x"


def test_death_of_the_process_is_not_remembered(tmp_path: Path) -> None:
    file = DigestedPath(tmp_path / "file", "1")
    with pytest.raises(ProcessError, match="time limit"):
        runner(tmp_path, timeout_s=0.2).measured("stage", int, steps.sleeps_without, file)
    file.path.touch()
    assert runner(tmp_path).measured("stage", int, steps.sleeps_without, file) == 1


def test_measurement_of_another_release_is_taken_again(tmp_path: Path) -> None:
    runner(tmp_path).measured("stage", int, steps.add, 5)
    (entry,) = (tmp_path / "cache" / "measured").iterdir()
    entry.write_text('{"type": "success", "value": [5]}')
    assert runner(tmp_path).measured("stage", int, steps.add, 5) == 5


def test_build_of_another_release_is_reported(tmp_path: Path) -> None:
    folder = runner(tmp_path).build("build", steps.builds, 3)
    with pytest.raises(ArtifactError, match=r"another release of this tool .*; export with --no-cache"):
        stored(folder, Machine)
    (folder / "record.json").unlink()
    with pytest.raises(ArtifactError, match=r"was damaged, .*; export with --no-cache"):
        stored(folder, Sum)


def test_failed_build_is_tried_again(tmp_path: Path) -> None:
    counter = DigestedPath(tmp_path / "calls", "1")
    for _ in range(2):
        with pytest.raises(CandidateError, match="ValueError"):
            runner(tmp_path).build("build", steps.counts_and_raises, counter)
    assert counter.path.read_text() == "xx"
    assert not [path for path in entries(tmp_path) if any(part.startswith(".") for part in path.parts)]
