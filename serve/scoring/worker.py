"""One open model that scores tasks, each into its part."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from optimize.errors import InputError, ProveserveError
from optimize.manifest import Golden, SessionOptions, Signature
from optimize.runtime.golden import replay
from optimize.runtime.session import Arrays, OnnxSession, check_inputs, first_line
from serve.scoring.answers import Answers
from serve.scoring.batches import Columns, Sizes, axis_sizes, batches, feed, padded_axes
from serve.scoring.columns import Indices, decode
from serve.scoring.folder import write_part
from serve.scoring.plan import Task
from serve.scoring.source import Reader, Source


@dataclass(frozen=True)
class Work:
    """All that a worker needs to know of its job."""

    model_path: Path
    options: SessionOptions
    signature: Signature
    golden_path: Path
    golden: Golden
    source: Source
    slice_rows: int
    folder: Path


class Scorer:
    """Opens the model and replays its golden inputs, then scores task after task."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._session = OnnxSession(work.model_path, work.options)
        replay(self._session, work.golden_path, work.golden)
        self._reader = Reader(work.source, [spec.name for spec in work.signature.inputs], work.slice_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, trace)
        self._session.__exit__(kind, error, trace)

    def score(self, task: Task) -> None:
        """Score a task's rows and let its part appear.

        Raises:
            UserError: The rows do not fit the model.
            ProveserveError: The model fails on a row, or the part cannot be written.
        """
        signature = self._work.signature
        table = self._reader.read(task)
        try:
            columns = {
                spec.name: decode(table.column(spec.name).combine_chunks(), spec, task.first_row)
                for spec in signature.inputs
            }
            sizes = axis_sizes(columns, signature, task.first_row)
        except InputError as error:
            raise InputError(f"{self._work.source.path}: {error}") from None
        answers = Answers(signature, task.rows)
        for rows in batches(columns, sizes, signature, task.rows):
            outputs = self._answer(columns, sizes, rows, task)
            answers.add(rows, outputs, {axis: sizes[axis][rows] for axis in padded_axes(signature)})
        write_part(self._work.folder, task, answers.table(task.first_row))

    def _answer(self, columns: Columns, sizes: Sizes, rows: Indices, task: Task) -> Arrays:
        inputs = feed(columns, sizes, rows, self._work.signature)
        # Rows of a batch are alike in shape, or ordered by it: where one does not fit, the last does not.
        where = f"{self._work.source.path}: row {task.first_row + rows[-1]} (row group {task.row_group})"
        try:
            check_inputs(self._work.signature, inputs)
        except InputError as error:
            raise InputError(f"{where}: {error}; mend or drop the row") from None
        try:
            return self._session.run(inputs)
        except Exception as error:  # noqa: BLE001 - onnxruntime raises a dozen unrelated classes for a failed run
            raise self._failure(columns, sizes, rows, task, error) from None

    def _failure(self, columns: Columns, sizes: Sizes, rows: Indices, task: Task, error: Exception) -> ProveserveError:
        """Name the first row of a batch that the model fails on alone, or the batch where it fails only as a whole."""
        found = (
            f"rows {task.first_row + rows.min()} to {task.first_row + rows.max()}, {len(rows)} of which share a batch"
        )
        for row in rows.tolist():
            alone = feed(columns, sizes, rows[rows == row], self._work.signature)
            try:
                self._session.run(alone)
            except Exception as cause:  # noqa: BLE001 - as above
                found, error = f"row {task.first_row + row}", cause
                break
        return ProveserveError(
            f"{self._work.source.path}: {found} (row group {task.row_group}): the model fails: {first_line(error)};"
            " finished parts are kept: mend or drop such rows, and score into another --output"
        )
