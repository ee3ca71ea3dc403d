"""The labelled samples of a model: read from the user's callable or file, checked, and stored as three splits.

A stored split is an .npz with arrays `INDEX/in/NAME` and `INDEX/labels` for each batch the user gave, so that later stages need
neither the user's code nor its libraries.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from optimize.arrays import Array, Arrays
from optimize.errors import SourceError, UserError
from optimize.manifest import Signature

Split = Literal["calibration", "selection", "confirmation"]
SPLITS: tuple[Split, ...] = get_args(Split)

# Of a file's rows: 10 % calibrate, 45 % select, 45 % confirm.
_CALIBRATION_SHARE, _SELECTION_SHARE = 0.10, 0.55
_HASH_RANGE = 2**32
# By chance alone a label with as many different rows misses one of the two judged splits once in ten thousand million files.
_ROWS_IN_EVERY_SPLIT = 40


@dataclass(frozen=True)
class Batch:
    """Some rows that share one shape: arrays by input name, and one label a row where there are labels."""

    inputs: Arrays
    labels: Array | None


def collect(produce: Callable[[str], Iterable[Any]], split: Split, spec: str) -> list[Batch]:
    """Call the user's `samples(split)` and check what it gives.

    Raises:
        SourceError: It fails, gives no sample, or gives something other than (dict of arrays, labels or None).
    """
    try:
        items = list(produce(split))
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise SourceError(f"{spec}({split!r}) failed: {type(error).__name__}: {error}") from error
    batches = [_batch(item, f"{spec}({split!r}), item {index}") for index, item in enumerate(items)]
    if not batches:
        raise SourceError(f"{spec}({split!r}) gave no sample; wanted at least one (inputs, labels) pair")
    return batches


def _batch(item: object, where: str) -> Batch:
    if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], Mapping):
        raise SourceError(
            f"{where} is {type(item).__name__}; wanted a pair (dict of input name -> array, labels or None)"
        )
    if not item[0]:
        raise SourceError(f"{where} has no input; wanted a dict of input name -> array")
    inputs = {name: _array(value, f"{where}: input {name!r}") for name, value in item[0].items()}
    labels = None if item[1] is None else _array(item[1], f"{where}: the label column")
    if labels is not None and labels.ndim == 0:
        raise SourceError(f"{where}: labels are a single value; wanted one entry a row")
    return Batch(inputs, labels)


def _array(value: object, what: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError:
        raise SourceError(
            f"{what} has rows of different shapes; wanted one shape a batch, so yield them apart"
        ) from None
    if array.dtype == object and not all(isinstance(entry, str | bytes) for entry in array.flat):
        raise SourceError(f"{what} holds Python objects; wanted numbers, booleans or strings of one shape")
    return _text(array, what) if array.dtype.kind in "OSU" else array


def _text(array: Array, what: str) -> Array:
    """Strings as `str` objects: bytes are UTF-8, as in ONNX and on the wire."""
    try:
        entries = [entry.decode() if isinstance(entry, bytes) else entry for entry in array.flat]
    except UnicodeDecodeError:
        raise SourceError(f"{what} holds bytes that are no UTF-8 text; wanted text, or numbers such as uint8") from None
    return np.array(entries, dtype=object).reshape(array.shape)


def from_file(path: Path, signature: Signature) -> dict[Split, list[Batch]]:
    """The rows of a .npz or .parquet file, each in the split that the hash of its inputs puts it into.

    So a row stays in its split whatever becomes of the others, and each label has the same shares as the whole, to within chance.

    Columns stand row by row, wherever the model has its batch axis. Rows of a model with an input that has none are requests of
    their own.

    Raises:
        SourceError: The file cannot be read, its columns differ in length, or a split gets no row, or none of a common label.
    """
    columns = {name: _array(column, f"{path}: column {name!r}") for name, column in _columns(path).items()}
    labels = columns.pop("label", None)
    lengths = {name: len(column) if column.ndim else 0 for name, column in columns.items()}
    lengths |= {} if labels is None else {"label": len(labels) if labels.ndim else 0}
    count = next(iter(lengths.values()), 0)
    if not columns or not count or len(set(lengths.values())) != 1:
        raise SourceError(f"{path}: columns have {lengths} rows; wanted one column per input, all of one length")
    splits = np.array(
        [_split_of(row_digest({n: c[i] for n, c in columns.items()})) for i in range(count)], dtype=object
    )
    _check_labels_everywhere(path, labels, splits)
    found: dict[Split, list[Batch]] = {}
    for split in SPLITS:
        chosen = np.flatnonzero(splits == split)
        if not chosen.size:
            raise SourceError(f"{path}: no row of its {count} falls into {split}; wanted more rows")
        found[split] = _arranged(columns, labels, chosen, signature)
    return found


def _check_labels_everywhere(path: Path, labels: Array | None, splits: Array) -> None:
    """Refuse a file of which a split that judges would never see some common label, since its rows are few and repeat."""
    if labels is None or not _discrete(labels, len(splits)):
        return
    judged = {split: set(labels[splits == split].tolist()) for split in SPLITS[1:]}
    for label, count in Counter(labels.tolist()).items():
        for split, there in judged.items():
            if count >= _ROWS_IN_EVERY_SPLIT and label not in there:
                raise SourceError(
                    f"{path}: none of the {count} rows with label {label!r} falls into {split}; equal rows stay together, so"
                    " drop those that repeat and add others"
                )


def _arranged(columns: Arrays, labels: Array | None, chosen: npt.NDArray[np.intp], signature: Signature) -> list[Batch]:
    axes = {spec.name: spec.batch_axis for spec in signature.inputs}
    together = all(axes.get(name, 0) is not None for name in columns)
    groups = [chosen] if together else [chosen[index : index + 1] for index in range(len(chosen))]
    return [
        Batch(
            {name: _placed(column[group], axes.get(name, 0)) for name, column in columns.items()},
            None if labels is None else labels[group],
        )
        for group in groups
    ]


def _placed(rows: Array, axis: int | None) -> Array:
    """Rows along the model's batch axis; a single row as it is where the model has none."""
    placed: Array = rows[0] if axis is None else np.moveaxis(rows, 0, axis) if axis < rows.ndim else rows
    return placed


def _columns(path: Path) -> Arrays:
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file) as archive:
                return {name: archive[name] for name in archive.files}
        import pyarrow.parquet  # noqa: PLC0415 - only a Parquet source needs it

        table = pyarrow.parquet.read_table(path)
        return {name: _column(table.column(name), f"{path}: column {name!r}") for name in table.column_names}
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file; `data` is relative to the budgets file") from None
    except SourceError:
        raise
    except Exception as error:  # the two readers raise many unrelated classes for a damaged file
        raise SourceError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from error


def _column(column: Any, what: str) -> Array:
    """An Arrow column as an array of its own dtype; lists of one length become further axes."""
    import pyarrow.compute  # noqa: PLC0415
    import pyarrow.types as kinds  # noqa: PLC0415

    values, shape = column.combine_chunks(), [len(column)]
    while kinds.is_list(values.type) or kinds.is_large_list(values.type) or kinds.is_fixed_size_list(values.type):
        sizes = pyarrow.compute.unique(pyarrow.compute.list_value_length(values)).to_pylist()
        if len(sizes) != 1 or sizes[0] is None:
            raise SourceError(
                f"{what} has rows of different shapes; wanted one shape, or a callable that yields batches"
            )
        shape.append(sizes[0])
        values = values.flatten()
    if values.null_count:
        raise SourceError(f"{what} holds {values.null_count} nulls; wanted a value in every row")
    array: Array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array


def row_digest(row: Mapping[str, Any]) -> bytes:
    """A digest of one row's inputs, whatever their order."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(row):
        value = np.asarray(row[name])
        text = value.dtype.kind in "OUS"
        digest.update(f"{name}|{'text' if text else value.dtype.kind}|{value.shape}|".encode())
        digest.update(repr(value.tolist()).encode() if text else value.tobytes())
    return digest.digest()


def _split_of(digest: bytes) -> Split:
    share = int.from_bytes(digest[:4], "big") / _HASH_RANGE
    if share < _CALIBRATION_SHARE:
        return "calibration"
    return "selection" if share < _SELECTION_SHARE else "confirmation"


def check_labels(batches: Iterable[Batch], signature: Signature, split: Split, *, needed: bool) -> None:
    """Refuse labels that do not have one entry a row, and missing ones where they are `needed`.

    Raises:
        SourceError: A batch has more or fewer labels than rows, or none.
    """
    for index, batch in enumerate(batches):
        rows = row_count(signature, batch.inputs)
        if batch.labels is None:
            if needed:
                raise SourceError(
                    f"{split}, item {index}: has no labels, which accuracy.max_drop needs; add them, or budget"
                    " accuracy.min_agreement alone"
                )
        elif len(batch.labels) != rows:
            batched = any(spec.batch_axis is not None for spec in signature.inputs)
            hint = "" if batched else "; no input has an axis named `batch`: declare the inputs with one"
            raise SourceError(
                f"{split}, item {index}: {len(batch.labels)} labels for {rows} rows; wanted one label a row{hint}"
            )


def row_count(signature: Signature, inputs: Mapping[str, Array]) -> int:
    """Rows of one batch: the size of the axis named batch, or 1 where no input has it."""
    for spec in signature.inputs:
        axis = spec.batch_axis
        if axis is not None and spec.name in inputs and inputs[spec.name].ndim > axis:
            return int(inputs[spec.name].shape[axis])
    return 1


def rows(signature: Signature, batch: Batch) -> Iterator[tuple[Arrays, Any]]:
    """Each row of a batch as a request of its own, with its label."""
    count = row_count(signature, batch.inputs)
    axes = {spec.name: spec.batch_axis for spec in signature.inputs}
    for index in range(count):
        inputs = {
            name: value if axes.get(name) is None else value.take([index], axis=axes[name])
            for name, value in batch.inputs.items()
        }
        yield inputs, (None if batch.labels is None else batch.labels[index])


def check_disjoint(signature: Signature, splits: Mapping[Split, list[Batch]]) -> None:
    """Refuse splits that share a sample, since a variant would be judged on what it was calibrated or chosen on.

    Raises:
        SourceError: Some sample stands in two splits.
    """
    digests = {
        name: {row_digest(inputs) for batch in batches for inputs, _ in rows(signature, batch)}
        for name, batches in splits.items()
    }
    for first, second in itertools.combinations(digests, 2):
        shared = len(digests[first] & digests[second])
        if shared:
            raise SourceError(
                f"splits {first} and {second} share {shared} samples; wanted disjoint splits: drop duplicates first"
            )


def store(path: Path, batches: Iterable[Batch]) -> None:
    """Write a split."""
    arrays: Arrays = {}
    for index, batch in enumerate(batches):
        for name, value in batch.inputs.items():
            arrays[f"{index}/in/{name}"] = storable(value)
        if batch.labels is not None:
            arrays[f"{index}/labels"] = storable(batch.labels)
    np.savez(path, allow_pickle=False, **arrays)


def storable(array: Array) -> Array:
    """The array as .npz files hold it: strings at a fixed width, since an object array would need pickle."""
    return array.astype(str) if array.dtype == object else array


def read(path: Path) -> list[Batch]:
    """Read a split that :func:`store` wrote. Strings come back as objects, which is how a session takes them."""
    inputs: dict[int, Arrays] = {}
    labels: dict[int, Array] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            index, kind, *name = key.split("/", 2)
            value = archive[key]
            if kind == "labels":
                labels[int(index)] = value
            else:
                inputs.setdefault(int(index), {})[name[0]] = value.astype(object) if value.dtype.kind == "U" else value
    return [Batch(inputs[index], labels.get(index)) for index in sorted(inputs)]


def digest(splits: Mapping[Split, list[Batch]]) -> str:
    """Digest of all samples and labels, in order."""
    total = hashlib.sha256()
    for name in SPLITS:
        for batch in splits.get(name, []):
            total.update(name.encode())
            total.update(row_digest(batch.inputs))
            if batch.labels is not None:
                total.update(row_digest({"label": batch.labels}))
    return total.hexdigest()


def subset(signature: Signature, batches: list[Batch], wanted: int, seed: int) -> list[Batch]:
    """At most `wanted` rows of a split, in proportion to their labels where these are discrete, else at random."""
    counts = [row_count(signature, batch.inputs) for batch in batches]
    labels = None
    if all(batch.labels is not None for batch in batches):
        labels = np.concatenate([batch.labels for batch in batches if batch.labels is not None])
    chosen = _stratified(labels, sum(counts), wanted, seed)
    axes = {spec.name: spec.batch_axis for spec in signature.inputs}
    kept, start = [], 0
    for batch, count in zip(batches, counts, strict=True):
        rows_kept = chosen[(chosen >= start) & (chosen < start + count)] - start
        start += count
        if rows_kept.size:
            inputs = {
                name: value if (axis := axes[name]) is None else value.take(rows_kept, axis=axis)
                for name, value in batch.inputs.items()
            }
            kept.append(Batch(inputs, None if batch.labels is None else batch.labels[rows_kept]))
    return kept


def _discrete(labels: Array, count: int) -> bool:
    """Whether there is one whole number, boolean or text a row."""
    return labels.ndim == 1 and labels.dtype.kind in "iubUO" and len(labels) == count


def _stratified(labels: Array | None, count: int, wanted: int, seed: int) -> npt.NDArray[np.intp]:
    generator = np.random.default_rng(seed)
    if wanted >= count:
        return np.arange(count)
    if labels is None or not _discrete(labels, count) or len(Counter(labels.tolist())) > wanted:
        return np.sort(generator.choice(count, wanted, replace=False))
    order = generator.permutation(count)
    # Evenly spaced entries of a shuffled order, sorted by label, keep every label's share within one sample.
    by_label = order[np.argsort(labels[order], kind="stable")]
    return np.sort(by_label[np.linspace(0, count - 1, wanted).round().astype(np.intp)])
