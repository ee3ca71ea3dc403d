"""The output folder of a job: what the job is, and the parts that exist.

    part-00000.parquet ...  one task's rows each; appears whole and is never rewritten
    _job.json               what identifies the job; locked while it runs
    _SUCCESS                the summary, once every part is there

A file is written next to its place and linked there. A killed job leaves at most stray temporary files, which readers of Parquet
folders pass over and the next run removes.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from optimize.errors import ProveserveError, UserError
from optimize.execution.atomic import TEMPORARY_PREFIX, creating
from serve.scoring.input_file import Source
from serve.scoring.partition import Task

JOB_FILE = "_job.json"
SUCCESS_FILE = "_SUCCESS"
JOB_SCHEMA: Final = 1


class Job(Struct, frozen=True, forbid_unknown_fields=True):
    """What identifies a job: the rows, the model, how the rows are cut, and the columns."""

    schema: Literal[1]
    model: str
    version: int
    digest: str
    input: Source
    slice_rows: int
    columns: tuple[str, ...]


class Summary(Struct, frozen=True, forbid_unknown_fields=True):
    """What a run did; that of the run which completed the job is kept as _SUCCESS."""

    model: str
    version: int
    digest: str
    rows: int
    parts: int
    rows_scored: int
    """Rows that this run scored; earlier runs scored the rest."""
    seconds: float
    """The whole run, including the start and the end of its workers."""
    scoring_s: float
    """From the first open worker to the last part."""
    rows_per_s: float
    """`rows_scored` over `seconds`."""


def recorded(folder: Path) -> Job | None:
    """The job of a folder, or None where it has none.

    Raises:
        UserError: The record is damaged.
    """
    try:
        return msgspec.json.decode((folder / JOB_FILE).read_bytes(), type=Job)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.DecodeError as error:
        raise UserError(
            f"{folder / JOB_FILE}: not the record of a job ({error}); name another folder with --output"
        ) from None


def check_free(folder: Path) -> None:
    """Refuse a folder that is not empty.

    Raises:
        UserError: It is not empty, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, wanted a folder; name another one with --output")
    if folder.is_dir() and any(not entry.name.startswith(TEMPORARY_PREFIX) for entry in folder.iterdir()):
        fix = "continue its job with --resume, or " if (folder / JOB_FILE).exists() else ""
        raise UserError(f"{folder}: is not empty, wanted an empty or a new folder; {fix}name another one with --output")


def difference(begun: Job, now: Job) -> str | None:
    """How a job differs from the one that was begun, or None where it is the same."""
    if (begun.model, begun.version) != (now.model, now.version):
        return f"{begun.model} version {begun.version}, this is {now.model} version {now.version}"
    if begun.digest != now.digest:
        return f"digest {begun.digest[:12]} of version {begun.version}, which has {now.digest[:12]} now"
    if not begun.input.is_same_as(now.input):
        return f"{begun.input.path} as it was then, this is {now.input.path} of another size, time or content"
    if (begun.slice_rows, begun.columns) != (now.slice_rows, now.columns):
        return "rows cut or columns named by another release of this command"
    return None


class Folder:
    """An output folder that this process has locked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def missing(self, tasks: tuple[Task, ...]) -> list[Task]:
        """The tasks whose parts are missing.

        Raises:
            UserError: A part does not have its task's rows.
        """
        left = []
        for task in tasks:
            path = part_path(self.path, task)
            if path.exists():
                _check_part(path, task)
            else:
                left.append(task)
        return left

    def finish(self, summary: Summary) -> None:
        """Write the summary, which marks the job as complete; an earlier summary stays.

        Temporary files of killed workers are removed first.
        """
        _sweep(self.path)
        with suppress(FileExistsError), creating(self.path / SUCCESS_FILE) as temporary:
            temporary.write_bytes(_json(summary))


@contextmanager
def locked(path: Path, job: Job) -> Iterator[Folder]:
    """Claim the folder for a job, new or begun, for as long as the context lasts; half-written parts are removed at both ends.

    Raises:
        UserError: The folder belongs to a different job, or another process works on it.
    """
    _begin(path, job)
    with (path / JOB_FILE).open("rb") as record:
        _lock(record, path)
        problem = difference(msgspec.json.decode(record.read(), type=Job), job)
        if problem is not None:
            raise UserError(f"{path}: the job there was begun with {problem}; name another folder with --output")
        _sweep(path)
        try:
            yield Folder(path)
        finally:
            _sweep(path)


def _begin(path: Path, job: Job) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with creating(path / JOB_FILE) as temporary:
            temporary.write_bytes(_json(job))
    except FileExistsError:
        return  # an unfinished job, which another process may have locked
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; name another folder with --output") from None


def _lock(record: IO[bytes], path: Path) -> None:
    """The kernel drops the lock with the process, however it ends."""
    try:
        fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path}: another `optimize score` works on it; wait for it, or name another --output"
        ) from None


def _sweep(path: Path) -> None:
    for stray in path.glob(f"{TEMPORARY_PREFIX}*"):
        stray.unlink(missing_ok=True)


def part_path(folder: Path, task: Task) -> Path:
    """The file of a task's rows."""
    return folder / f"part-{task.index:05d}.parquet"


def write_part(folder: Path, task: Task, table: pa.Table) -> None:
    """Write a task's part; one that exists already stays.

    Raises:
        ProveserveError: It cannot be written.
    """
    path = part_path(folder, task)
    try:
        with creating(path) as temporary:
            # Scores hardly repeat: looking for a dictionary takes four times as long as writing them.
            pq.write_table(table, temporary, row_group_size=max(table.num_rows, 1), use_dictionary=False)
    except FileExistsError:
        return  # a worker that seemed dead had finished it
    except OSError as error:
        raise ProveserveError(
            f"{path}: cannot be written: {error.strerror or error}; finished parts are kept: fix that, and continue with --resume"
        ) from None


def _check_part(path: Path, task: Task) -> None:
    try:
        rows = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        rows = -1
    if rows != task.rows:
        found = "is no Parquet file" if rows < 0 else f"has {rows} rows"
        raise UserError(
            f"{path}: {found}, wanted the {task.rows} rows of its task; remove it, and continue with --resume"
        )


def _json(record: Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
