"""ONNX files on disk, with their weights inside or next to them.

Weights next to a model are named by the digest of their bytes. The registry names files the same way, and onnxruntime reads external
data only from the model's folder, so a published model finds its weights without being rewritten.
"""

import hashlib
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_model, set_external_data

from optimize.errors import CandidateError, SourceError

INLINE_LIMIT_BYTES = 1_500_000_000
"""Weights above this are written next to the model: protobuf ends at 2 GiB."""

_SMALL_TENSOR_BYTES = 1024
_ALIGNMENT_BYTES = 4096  # onnxruntime maps weights that begin on a page instead of copying them


def read(path: Path) -> onnx.ModelProto:
    """The model with all its weights in memory.

    Raises:
        SourceError: The file is missing or is not ONNX, or its external data cannot be read.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file; wanted an ONNX model")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        raise SourceError(f"{path.name}: not an ONNX file, or a damaged one; export the model again") from None
    if not model.graph.node and not model.graph.output:
        raise SourceError(f"{path.name}: holds no ONNX graph; export the model again")
    try:
        load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(
            f"{path.name}: its external data cannot be read ({reason}); keep the data file next to the model"
        ) from None
    return model


def write(model: onnx.ModelProto, target: Path) -> tuple[Path, ...]:
    """Write the model, and its weights next to it if they are large; return the files, the model first.

    Weights that were written next to the model are dropped from memory, so that there are never two copies of them.

    Raises:
        CandidateError: The disk is full, or the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        data = () if weight_bytes(model.graph) <= INLINE_LIMIT_BYTES else (_write_weights(model.graph, target),)
        target.write_bytes(model.SerializeToString())
    except OSError as error:
        raise CandidateError(f"{target.name}: cannot be written: {error.strerror}") from None
    return (target, *data)


def weight_bytes(graph: onnx.GraphProto) -> int:
    """Bytes of the graph's initialisers."""
    return sum(tensor.ByteSize() for tensor in graph.initializer)


def _write_weights(graph: onnx.GraphProto, target: Path) -> Path:
    temporary = target.with_name(f".{target.name}.weights")
    digest = hashlib.sha256()
    moved = []
    try:
        with temporary.open("wb") as file:
            for tensor in graph.initializer:
                data = _raw(tensor)
                if len(data) < _SMALL_TENSOR_BYTES:
                    continue
                padding = b"\0" * (-file.tell() % _ALIGNMENT_BYTES)
                moved.append((tensor, file.tell() + len(padding), len(data)))
                for part in (padding, data):
                    file.write(part)
                    digest.update(part)
                tensor.raw_data = b""
        path = target.with_name(digest.hexdigest())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    for tensor, offset, length in moved:
        set_external_data(tensor, path.name, offset, length)
        tensor.ClearField("raw_data")
    return path


def _raw(tensor: onnx.TensorProto) -> bytes:
    """The tensor's bytes, which other writers may store as a list of numbers; empty for strings."""
    if tensor.HasField("raw_data") or tensor.data_type == onnx.TensorProto.STRING:
        return tensor.raw_data
    if tensor.ByteSize() >= _SMALL_TENSOR_BYTES:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    return tensor.raw_data
