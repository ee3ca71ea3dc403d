"""One open model that scores tasks, each into its part."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from optimize.arrays import Arrays
from optimize.errors import ExecutionError, InputError, ProveserveError
from optimize.manifest import Golden, Preprocessing, SessionOptions, Signature, TensorSpec
from optimize.registry import Registry
from optimize.runtime.golden import replay
from optimize.runtime.session import OnnxSession, check_inputs
from optimize.source import preprocess_package
from optimize.source.preprocess import Preprocess
from serve.scoring.answers import Answers
from serve.scoring.batches import Slice
from serve.scoring.columns import Indices, decode
from serve.scoring.input_file import Reader, Source
from serve.scoring.output_folder import write_part
from serve.scoring.partition import Task
from serve.scoring.raw_columns import prepared


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs to know of its job."""

    model_path: Path
    options: SessionOptions
    batch: int
    signature: Signature
    golden_path: Path
    golden: Golden
    source: Source
    slice_rows: int
    folder: Path
    registry: Path | str
    preprocessing: Preprocessing | None = None
    """Set where the file has raw columns."""

    @property
    def columns(self) -> tuple[TensorSpec, ...]:
        """The columns that are read from the file."""
        return self.signature.inputs if self.preprocessing is None else self.preprocessing.columns


class Scorer:
    """Opens the model and replays its golden inputs, then scores task after task."""

    def __init__(self, work: Work) -> None:
        self._work = work
        with ExitStack() as stack:
            self._session = stack.enter_context(OnnxSession(work.model_path, work.options))
            replay(self._session, work.golden_path, work.golden)
            self._preprocess: Preprocess | None = None
            if work.preprocessing is not None:
                restored = preprocess_package.restored(work.preprocessing, Registry(work.registry))
                self._preprocess = stack.enter_context(restored)
            self._reader = stack.enter_context(
                Reader(work.source, [spec.name for spec in work.columns], work.slice_rows)
            )
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def score(self, task: Task) -> None:
        """Score a task's rows and write its part.

        Raises:
            UserError: The rows do not fit the model.
            ProveserveError: The model fails on a row, or the part cannot be written.
        """
        rows = self._read(task)
        answers = Answers(self._work.signature, task.rows)
        for batch in rows.batches(self._work.batch):
            answers.add(batch, self._answer(rows, batch, task), rows.padded_sizes(batch))
        write_part(self._work.folder, task, answers.table(task.first_row))

    def _read(self, task: Task) -> Slice:
        signature = self._work.signature
        table = self._reader.read(task)
        try:
            columns = {
                spec.name: decode(table.column(spec.name).combine_chunks(), spec, task.first_row)
                for spec in self._work.columns
            }
            if self._preprocess is not None:
                columns = prepared(columns, self._work.columns, signature, self._preprocess, task.first_row)
            return Slice(columns, signature, task.first_row)
        except InputError as error:
            raise InputError(f"{self._work.source.path}: {error}") from None

    def _answer(self, rows: Slice, batch: Indices, task: Task) -> Arrays:
        inputs = rows.feed(batch)
        try:
            check_inputs(self._work.signature, inputs)
        except InputError as error:
            # Rows of a batch have one shape, or are ordered by it: if one does not fit, the last does not.
            raise InputError(
                f"{self._work.source.path}: row {task.first_row + batch[-1]} (row group {task.row_group}): {error};"
                " fix or drop the row"
            ) from None
        try:
            return self._session.run(inputs)
        except ExecutionError as error:
            raise self._failure(rows, batch, task, error) from None

    def _failure(self, rows: Slice, batch: Indices, task: Task, error: ExecutionError) -> ProveserveError:
        """Name the first row of a batch that the model fails on alone, or the batch if it fails only as a whole."""
        found = f"one of rows {task.first_row + batch.min()} to {task.first_row + batch.max()}"
        for position, row in enumerate(batch):
            try:
                self._session.run(rows.feed(batch[position : position + 1]))
            except ExecutionError as cause:
                found, error = f"row {task.first_row + row}", cause
                break
        return ProveserveError(
            f"{self._work.source.path}: {found} (row group {task.row_group}): the model fails: {error};"
            " finished parts are kept: fix or drop such rows, and score into another --output"
        )
