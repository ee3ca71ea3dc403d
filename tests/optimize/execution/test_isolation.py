import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from optimize.errors import CandidateError, Exit, ProcessError, ProveserveError, SourceError
from optimize.execution.isolation import Isolated
from tests.optimize import steps

ROOT = Path(__file__).parents[3]
PATIENCE_S = 30.0


def wait_for(condition: Callable[[], Any]) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def pids_in(folder: Path) -> list[int]:
    path = folder / "pids"
    return list(map(int, path.read_text().split())) if path.exists() else []


def all_gone(pids: list[int]) -> bool:
    def alive(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return not any(map(alive, pids))


def test_the_answer_is_returned() -> None:
    assert Isolated()(steps.add, 2, b=3) == 5


def test_call_runs_in_a_fresh_process_of_its_own() -> None:
    isolated = Isolated()
    first, second = isolated(os.getpid), isolated(os.getpid)
    assert len({first, second, os.getpid()}) == 3


def test_prints_are_captured_and_stdin_is_empty(capfd: pytest.CaptureFixture[str]) -> None:
    assert Isolated()(steps.prints) == ""
    assert capfd.readouterr() == ("", "")


def test_a_longer_call_gets_a_longer_time_limit() -> None:
    hasty = Isolated(timeout_s=0.01, memory_mb=4000)
    with pytest.raises(ProcessError, match="time limit"):
        hasty(steps.add, 1)
    assert hasty.allowing(PATIENCE_S)(steps.add, 1) == 1
    assert hasty.allowing(1).memory_mb == 4000


def test_full_disk_is_the_failure_of_the_run() -> None:
    with pytest.raises(
        ProveserveError, match=r"No space left on device; make room, and run the command again"
    ) as caught:
        Isolated()(steps.fills_the_disk)
    assert caught.value.exit_code == Exit.BROKEN
    assert not isinstance(caught.value, CandidateError)


def test_hang_is_ended_at_its_time_limit(tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match=r"^did not finish within its time limit of 3 s$"):
        Isolated(timeout_s=3.0)(steps.sleeps, tmp_path, 3)
    pids = pids_in(tmp_path)
    assert len(pids) == 3
    wait_for(lambda: all_gone(pids))


def test_memory_limit_names_use_and_limit() -> None:
    with pytest.raises(CandidateError, match=r"^used \d+ MB of memory, over its limit of 200 MB$"):
        Isolated(memory_mb=200)(steps.grows, 1000)


def test_memory_of_descendants_counts() -> None:
    with pytest.raises(CandidateError, match="over its limit of 300 MB"):
        Isolated(memory_mb=300)(steps.lets_a_child_grow, 500)


@pytest.mark.parametrize(
    ("function", "args", "kind", "text"),
    [
        (steps.dies_by, (9,), ProcessError, "its process was killed by SIGKILL; its last words: farewell"),
        (steps.aborts, (), ProcessError, "its process was killed by SIGABRT"),
        (steps.exits, (7,), ProcessError, "its process exited with code 7; its last words: out of here"),
        (steps.vanishes, (), ProcessError, "its process exited with code 0"),
        (steps.raises, ("bad value\nsecond line",), CandidateError, "ValueError: bad value"),
        (steps.raises_silently, (), CandidateError, "KeyError: no message"),
        (steps.raises_artifact_error, (), CandidateError, "cannot be opened"),
    ],
)
def test_failure_is_the_candidates_own_and_says_its_cause(
    function: Callable[..., None], args: tuple[Any, ...], kind: type[CandidateError], text: str
) -> None:
    with pytest.raises(CandidateError) as caught:
        Isolated()(function, *args)
    assert (type(caught.value), str(caught.value)) == (kind, text)


def test_user_error_passes_through() -> None:
    with pytest.raises(SourceError, match=r"^labels are missing; add them$"):
        Isolated()(steps.raises_user_error)


def test_answer_that_no_pickle_holds_is_a_failure() -> None:
    with pytest.raises(CandidateError, match=r"its process exited with code 1.*pickle"):
        Isolated()(steps.returns_what_no_pickle_holds)


def test_child_that_the_call_left_behind_is_ended(tmp_path: Path) -> None:
    assert Isolated()(steps.leaves_child_behind, tmp_path) == "done"
    pids = pids_in(tmp_path)
    assert pids
    wait_for(lambda: all_gone(pids))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_child_and_grandchildren_end_with_their_parent(tmp_path: Path, signum: int) -> None:
    code = (
        "from pathlib import Path; from optimize.execution.isolation import Isolated; from tests.optimize import steps;"
        f"Isolated()(steps.sleeps, Path({str(tmp_path)!r}), 3)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        pids = wait_for(lambda: pids_in(tmp_path))
        assert len(pids) == 3
        assert not all_gone(pids)
        parent.send_signal(signum)
        parent.wait(PATIENCE_S)
        wait_for(lambda: all_gone(pids))
    finally:
        parent.kill()
        parent.wait()


def test_no_folder_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Isolated()(steps.add, 1)
    with pytest.raises(CandidateError):
        Isolated()(steps.aborts)
    assert list(tmp_path.iterdir()) == []
