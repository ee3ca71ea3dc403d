import subprocess
import sys
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optimize.errors import ProveserveError, UserError
from serve.scoring.input_file import Source
from serve.scoring.output_folder import (
    JOB_FILE,
    SUCCESS_FILE,
    Job,
    Summary,
    check_free,
    locked,
    part_path,
    recorded,
    write_part,
)
from serve.scoring.partition import Task

INPUT = Source("/data/in.parquet", 1000, 5, "f" * 64, (3, 2))
JOB = Job(1, "digits", 3, "a" * 64, INPUT, 8, ("row: int64", "y: float"))
TASKS = (Task(0, 0, 0, 0, 3), Task(1, 1, 0, 3, 2))
SUMMARY = Summary("digits", 3, "a" * 64, 5, 2, 5, 1.0, 0.5, 5.0)

changed = msgspec.structs.replace


def rows(task: Task) -> pa.Table:
    return pa.table({"row": range(task.first_row, task.first_row + task.rows)})


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_parts_of_a_job_are_found_again(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with locked(out, JOB) as folder:
        assert folder.missing(TASKS) == list(TASKS)
        write_part(out, TASKS[1], rows(TASKS[1]))
    assert recorded(out) == JOB
    with locked(out, JOB) as folder:
        assert folder.missing(TASKS) == [TASKS[0]]
        folder.finish(SUMMARY)
    assert msgspec.json.decode((out / SUCCESS_FILE).read_bytes(), type=Summary) == SUMMARY
    assert names(out) == [SUCCESS_FILE, JOB_FILE, "part-00001.parquet"]


def test_a_part_is_never_rewritten(tmp_path: Path) -> None:
    write_part(tmp_path, TASKS[0], rows(TASKS[0]))
    before = part_path(tmp_path, TASKS[0]).stat()
    write_part(tmp_path, TASKS[0], pa.table({"row": [9, 9, 9]}))
    after = part_path(tmp_path, TASKS[0]).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert names(tmp_path) == ["part-00000.parquet"]


def test_failed_write_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        ProveserveError, match=r"part-00000.parquet: cannot be written: .*; finished parts are kept"
    ) as caught:
        write_part(tmp_path / "gone", TASKS[0], rows(TASKS[0]))
    assert caught.value.exit_code == 4
    with pytest.raises(AttributeError):
        write_part(tmp_path, TASKS[0], None)
    assert names(tmp_path) == []


def test_what_a_killed_worker_was_writing_is_gone_from_a_finished_folder(tmp_path: Path) -> None:
    with locked(tmp_path, JOB) as folder:
        (tmp_path / ".tmp-7-part-00000.parquet").write_bytes(b"half")
        for task in TASKS:
            write_part(tmp_path, task, rows(task))
        folder.finish(SUMMARY)
        assert names(tmp_path) == [SUCCESS_FILE, JOB_FILE, "part-00000.parquet", "part-00001.parquet"]


def test_what_a_worker_was_writing_is_gone_after_an_interrupt(tmp_path: Path) -> None:
    def interrupted() -> None:
        with locked(tmp_path, JOB):
            write_part(tmp_path, TASKS[0], rows(TASKS[0]))
            (tmp_path / ".tmp-7-part-00001.parquet").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == [JOB_FILE, "part-00000.parquet"]


def test_finished_summary_stays(tmp_path: Path) -> None:
    with locked(tmp_path, JOB) as folder:
        folder.finish(SUMMARY)
        folder.finish(changed(SUMMARY, rows_scored=0))
    assert msgspec.json.decode((tmp_path / SUCCESS_FILE).read_bytes(), type=Summary) == SUMMARY


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (changed(JOB, model="sentiment"), "digits version 3, this is sentiment version 3"),
        (changed(JOB, version=4), "digits version 3, this is digits version 4"),
        (changed(JOB, digest="b" * 64), "digest aaaaaaaaaaaa of version 3, which has bbbbbbbbbbbb now"),
        (changed(JOB, input=changed(INPUT, modified_ns=6)), "of another size, time or content"),
        (changed(JOB, slice_rows=16), "by another release of this command"),
        (changed(JOB, columns=("row: int64",)), "by another release of this command"),
    ],
)
def test_different_job_is_refused(tmp_path: Path, other: Job, named: str) -> None:
    with locked(tmp_path, JOB):
        pass
    with (
        pytest.raises(UserError, match=f"the job there was begun with .*{named}; name another folder"),
        locked(tmp_path, other),
    ):
        pass
    assert recorded(tmp_path) == JOB


def test_same_input_in_another_place_is_the_same_job(tmp_path: Path) -> None:
    with locked(tmp_path, JOB):
        pass
    with locked(tmp_path, changed(JOB, input=changed(INPUT, path="/elsewhere/in.parquet"))):
        pass


def test_folder_is_locked_by_one_process(tmp_path: Path) -> None:
    holder = (
        "import sys, time, msgspec; from pathlib import Path; from serve.scoring.output_folder import Job, locked\n"
        "with locked(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Job)):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path), msgspec.json.encode(JOB).decode()], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another `optimize score` works on it"), locked(tmp_path, JOB):
            pass
        process.kill()
    with locked(tmp_path, JOB):
        pass


def test_strays_of_a_killed_job_are_removed(tmp_path: Path) -> None:
    with locked(tmp_path, JOB):
        pass
    (tmp_path / ".tmp-77-part-00000.parquet").write_bytes(b"half")
    with locked(tmp_path, JOB):
        assert names(tmp_path) == [JOB_FILE]


def test_damaged_part_is_named(tmp_path: Path) -> None:
    write_part(tmp_path, TASKS[0], rows(TASKS[1]))
    with locked(tmp_path, JOB) as folder:
        with pytest.raises(
            UserError, match=r"part-00000.parquet: has 2 rows, wanted the 3 rows of its task; remove it"
        ):
            folder.missing(TASKS)
        part_path(tmp_path, TASKS[0]).write_bytes(b"not parquet at all")
        with pytest.raises(UserError, match=r"part-00000.parquet: is no Parquet file"):
            folder.missing(TASKS)


def test_damaged_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / JOB_FILE).write_text("{}")
    with pytest.raises(UserError, match="not the record of a job") as caught:
        recorded(tmp_path)
    assert "\n" not in str(caught.value)


def test_only_an_empty_folder_is_free(tmp_path: Path) -> None:
    check_free(tmp_path / "new")
    check_free(tmp_path)
    (tmp_path / ".tmp-1-_job.json").write_text("a job that was killed as it began")
    check_free(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        UserError, match=r"is not empty, wanted an empty or a new folder; name another one with --output"
    ):
        check_free(tmp_path)
    (tmp_path / JOB_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"continue its job with --resume, or name another one"):
        check_free(tmp_path)
    with pytest.raises(UserError, match="is a file, wanted a folder"):
        check_free(tmp_path / "notes.txt")


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"), locked(tmp_path / "file" / "out", JOB):
        pass


def test_parts_are_written_as_readers_of_folders_expect(tmp_path: Path) -> None:
    with locked(tmp_path, JOB) as folder:
        for task in TASKS:
            write_part(tmp_path, task, rows(task))
        folder.finish(SUMMARY)
    assert pq.read_table(tmp_path)["row"].to_pylist() == [0, 1, 2, 3, 4]
