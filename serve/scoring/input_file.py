"""The input file: its contents, and its rows read slice by slice in limited memory."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from optimize.errors import UserError, first_line
from serve.scoring.partition import Task

_READ_BUFFER_BYTES = 1 << 20
_MOST_ROWS_PER_READ = 16_384
_FOOTER_TAIL_BYTES = 8  # the footer's length, and the magic number behind it


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """What identifies an input file.

    A moved file is the same; a rewritten one is not. The footer, whose digest is kept, has the schema and the place and
    statistics of every column chunk.
    """

    path: str
    size_bytes: int
    modified_ns: int
    footer_digest: str
    row_groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of the whole file."""
        return sum(self.row_groups)

    def is_same_as(self, other: "Source") -> bool:
        """Whether both are the same file, even at another path."""
        return msgspec.structs.replace(self, path="") == msgspec.structs.replace(other, path="")


def describe(path: Path) -> tuple[Source, Any, pa.Schema]:
    """What identifies a file, its Parquet metadata, and its columns.

    Raises:
        UserError: There is no such file, or it is not Parquet.
    """
    try:
        with _opened(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
        with path.open("rb") as raw:
            status = path.stat()
            raw.seek(-(metadata.serialized_size + _FOOTER_TAIL_BYTES), 2)
            footer_digest = hashlib.sha256(raw.read()).hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name a Parquet file with --input") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, wanted one Parquet file; score its files one by one") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {first_line(error)}; wanted a Parquet file") from None
    row_groups = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    source = Source(str(path.absolute()), status.st_size, status.st_mtime_ns, footer_digest, row_groups)
    return source, metadata, schema


def stored_row_bytes(metadata: Any, columns: Sequence[str]) -> float:
    """The average uncompressed bytes of a row of these columns in the file."""
    total = 0.0
    for group in range(metadata.num_row_groups):
        chunks = metadata.row_group(group)
        for index in range(chunks.num_columns):
            path = chunks.column(index).path_in_schema
            if any(path == name or path.startswith(f"{name}.") for name in columns):
                total += chunks.column(index).total_uncompressed_size
    return total / max(int(metadata.num_rows), 1)


def _opened(path: Path) -> pq.ParquetFile:
    """A file whose column chunks are read through a small buffer instead of whole."""
    if path.is_dir():
        raise IsADirectoryError
    return pq.ParquetFile(path, buffer_size=_READ_BUFFER_BYTES, pre_buffer=False)


class Reader:
    """Reads the rows of tasks.

    A row group can only be decoded from its start, so the reader continues from its position when it can: read tasks in the order
    of the file.
    """

    def __init__(self, source: Source, columns: Sequence[str], slice_rows: int) -> None:
        self._source = source
        self._columns = list(columns)
        self._read_rows = min(slice_rows, _MOST_ROWS_PER_READ)
        self._file = _opened(Path(source.path))
        self._group = -1
        self._position = 0
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, task: Task) -> pa.Table:
        """The columns of exactly the task's rows.

        Raises:
            UserError: The file has changed since the job began, or is damaged.
        """
        path = self._source.path
        try:
            status = Path(path).stat()
            if (status.st_size, status.st_mtime_ns) != (self._source.size_bytes, self._source.modified_ns):
                raise UserError(f"{path}: was changed while it was scored; score it again into another --output")
            if task.rows == 0:
                return self._file.schema_arrow.empty_table().select(self._columns)
            if task.row_group != self._group or task.offset < self._position:
                self._rewind(task.row_group)
            for _ in self._next(task.offset - self._position):
                pass
            return pa.Table.from_batches(list(self._next(task.rows)))
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{path}: row group {task.row_group} cannot be read: {first_line(error)}; write the file again"
            ) from None

    def _rewind(self, group: int) -> None:
        self._group, self._position, self._rest = group, 0, None
        self._batches = self._file.iter_batches(
            self._read_rows, row_groups=[group], columns=self._columns, use_threads=False
        )

    def _next(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The next `rows` rows of the row group."""
        while rows > 0:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            if batch is None:
                raise pa.ArrowInvalid("it ends before the number of rows that its footer gives")
            taken = min(rows, batch.num_rows)
            self._rest = batch.slice(taken) if taken < batch.num_rows else None
            self._position += taken
            rows -= taken
            yield batch.slice(0, taken)
