"""Open Inference messages to named numpy arrays and back, without copies where numpy allows that.

Raw contents become read-only views of the message's bytes. BYTES elements are UTF-8 text, as ONNX's strings are, in an object array.
BF16, which numpy lacks, is read as uint16.
"""

import math
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from optimize.arrays import Array
from optimize.errors import InputError
from protos import open_inference_pb2 as pb

MAX_RANK = 32
_BYTES = "BYTES"
_LENGTH = struct.Struct("<I")


class _Kind(NamedTuple):
    """The numpy dtype of a datatype of the standard, and its field in typed contents (None: only raw contents carry it)."""

    dtype: np.dtype[Any]
    field: str | None


_KINDS = {
    "BOOL": _Kind(np.dtype("bool"), "bool_contents"),
    "UINT8": _Kind(np.dtype("<u1"), "uint_contents"),
    "UINT16": _Kind(np.dtype("<u2"), "uint_contents"),
    "UINT32": _Kind(np.dtype("<u4"), "uint_contents"),
    "UINT64": _Kind(np.dtype("<u8"), "uint64_contents"),
    "INT8": _Kind(np.dtype("<i1"), "int_contents"),
    "INT16": _Kind(np.dtype("<i2"), "int_contents"),
    "INT32": _Kind(np.dtype("<i4"), "int_contents"),
    "INT64": _Kind(np.dtype("<i8"), "int64_contents"),
    "FP16": _Kind(np.dtype("<f2"), None),
    "BF16": _Kind(np.dtype("<u2"), None),
    "FP32": _Kind(np.dtype("<f4"), "fp32_contents"),
    "FP64": _Kind(np.dtype("<f8"), "fp64_contents"),
    _BYTES: _Kind(np.dtype("object"), "bytes_contents"),
}
DATATYPES = tuple(_KINDS)
_DATATYPE_OF = {str(kind.dtype): name for name, kind in _KINDS.items() if name != "BF16"} | {"bfloat16": "BF16"}


def datatype_of(dtype: str) -> str:
    """The standard's name for a numpy dtype: "FP32" for "float32", and "BYTES" for "object" (numpy's strings).

    Raises:
        InputError: The standard has no such type.
    """
    if dtype.startswith(("<U", "|S")):
        return _BYTES
    if dtype not in _DATATYPE_OF:
        raise InputError(f"dtype {dtype} has no datatype in the protocol; wanted one of {', '.join(_DATATYPE_OF)}")
    return _DATATYPE_OF[dtype]


def read_inputs(request: pb.ModelInferRequest, wanted: Mapping[str, str]) -> dict[str, Array]:
    """The request's tensors by name; `wanted` maps the model's inputs to their datatypes.

    Raises:
        InputError: A tensor is unknown, missing, sent twice or has another datatype, or its contents do not fit its shape.
    """
    raws = request.raw_input_contents
    names = [tensor.name for tensor in request.inputs]
    _check_names(names, wanted, "input")
    if len(names) < len(wanted):
        missing = next(name for name in wanted if name not in names)
        raise InputError(f"input {missing!r} is missing; wanted {', '.join(wanted)}")
    if raws and len(raws) != len(request.inputs):
        raise InputError(f"raw_input_contents has {len(raws)} entries; wanted {len(request.inputs)}, one per input")
    arrays = {}
    for index, (name, tensor) in enumerate(zip(names, request.inputs, strict=True)):
        if tensor.datatype != wanted[name]:
            raise InputError(f"input {name!r} has datatype {_clip(tensor.datatype)}; wanted {wanted[name]}")
        arrays[name] = _read_tensor(tensor, f"input {name!r}", raws[index] if raws else None)
    return arrays


def read_outputs(response: pb.ModelInferResponse) -> dict[str, Array]:
    """The response's tensors by name, in the response's order.

    Raises:
        InputError: A tensor has an unknown datatype, or contents that do not fit its shape.
    """
    raws = response.raw_output_contents
    if raws and len(raws) != len(response.outputs):
        raise InputError(f"raw_output_contents has {len(raws)} entries; wanted {len(response.outputs)}, one per output")
    return {
        tensor.name: _read_tensor(tensor, f"output {tensor.name!r}", raws[index] if raws else None)
        for index, tensor in enumerate(response.outputs)
    }


def requested_outputs(request: pb.ModelInferRequest, available: Sequence[str]) -> list[str]:
    """The outputs that a request names, in its order; all outputs if it names none.

    Raises:
        InputError: One is unknown, or named twice.
    """
    names = [output.name for output in request.outputs]
    _check_names(names, available, "output")
    return names or list(available)


def write_request(
    model: str, inputs: Mapping[str, Array], outputs: Iterable[str] = (), version: str = ""
) -> pb.ModelInferRequest:
    """A request with raw contents.

    Raises:
        InputError: An array has a dtype that the protocol does not know.
    """
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        datatype = datatype_of(array.dtype.str if array.dtype.kind in "US" else array.dtype.name)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(_raw(array, datatype))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def write_outputs(
    response: pb.ModelInferResponse, outputs: Mapping[str, Array], names: Iterable[str], datatypes: Mapping[str, str]
) -> None:
    """Add outputs to a response as raw contents, in the order of `names`."""
    for name in names:
        array = outputs[name]
        response.outputs.add(name=name, datatype=datatypes[name], shape=array.shape)
        response.raw_output_contents.append(_raw(array, datatypes[name]))


def _check_names(names: Sequence[str], known: Collection[str], role: str) -> None:
    seen = set()
    for name in names:
        if name not in known:
            raise InputError(f"{role} {_clip(name)!r} is not one of the model's; wanted {', '.join(known)}")
        if name in seen:
            raise InputError(f"{role} {name!r} is named twice; wanted once")
        seen.add(name)


def _read_tensor(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor,
    described: str,
    raw: bytes | None,
) -> Array:
    kind = _KINDS.get(tensor.datatype)
    if kind is None:
        raise InputError(f"{described} has datatype {_clip(tensor.datatype)!r}; wanted one of {', '.join(DATATYPES)}")
    shape = tuple(tensor.shape)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise InputError(f"{described} has shape {_clip(list(shape))}; wanted at most {MAX_RANK} sizes of 0 or more")
    if raw is None:
        flat = _typed(tensor.contents, tensor.datatype, kind, math.prod(shape), described)
    elif tensor.HasField("contents"):
        raise InputError(f"{described} has both raw and typed contents; wanted one of them")
    else:
        flat = _untyped(raw, tensor.datatype, kind, math.prod(shape), described)
    try:
        return flat.reshape(shape)
    except ValueError:  # next to a size of 0, the others may be larger than an array can index
        raise InputError(f"{described} has shape {list(shape)}; wanted sizes that an array can have") from None


def _untyped(raw: bytes, datatype: str, kind: _Kind, count: int, described: str) -> Array:
    if datatype == _BYTES:
        return _text(_split(raw, count, described), described)
    if len(raw) != count * kind.dtype.itemsize:
        raise InputError(
            f"{described} has {len(raw)} bytes; wanted {count * kind.dtype.itemsize}: {count} elements of {datatype}"
        )
    if datatype == "BOOL" and raw.translate(None, b"\x00\x01"):
        raise InputError(f"{described} has bytes other than 0 and 1; wanted one byte of 0 or 1 per BOOL element")
    return np.frombuffer(raw, kind.dtype)


def _typed(contents: pb.InferTensorContents, datatype: str, kind: _Kind, count: int, described: str) -> Array:
    if kind.field is None:
        raise InputError(f"{described} has datatype {datatype} in typed contents; wanted raw_input_contents for it")
    others = [field.name for field, _ in contents.ListFields() if field.name != kind.field]
    if others:
        raise InputError(f"{described} has {others[0]} for datatype {datatype}; wanted {kind.field}")
    values = getattr(contents, kind.field)
    if len(values) != count:
        raise InputError(f"{described} has {len(values)} elements in {kind.field}; wanted {count}")
    if datatype == _BYTES:
        return _text(values, described)
    if kind.dtype.kind in "iu" and values:
        limits = np.iinfo(kind.dtype)
        if min(values) < limits.min or max(values) > limits.max:
            raise InputError(f"{described} has elements beyond {datatype}; wanted {limits.min} to {limits.max}")
    return np.fromiter(values, kind.dtype, count)


def _split(raw: bytes, count: int, described: str) -> list[bytes]:
    """The elements of raw BYTES; the data limits their number, whatever the shape claims."""
    if len(raw) < count * _LENGTH.size:
        raise InputError(f"{described} has {len(raw)} bytes; wanted {count} elements, each after its length")
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, at)[0] if start <= len(raw) else start
        if end > len(raw):
            raise InputError(
                f"{described} ends inside element {len(elements)}; wanted each element complete after its length"
            )
        elements.append(raw[start:end])
        at = end
    if len(elements) != count:
        raise InputError(f"{described} has {len(elements)} elements; wanted {count}")
    return elements


def _text(elements: Sequence[bytes], described: str) -> Array:
    array = np.empty(len(elements), dtype=object)
    try:
        array[:] = [element.decode() for element in elements]
    except UnicodeDecodeError:
        raise InputError(f"{described} has a BYTES element that is not UTF-8; wanted UTF-8 text") from None
    return array


def _raw(array: Array, datatype: str) -> bytes:
    if datatype != _BYTES:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    elements = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel()]
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def _clip(found: object, limit: int = 80) -> str:
    """What was found, cut to a length that suits an error message."""
    text = str(found)
    return text if len(text) <= limit else f"{text[:limit]}..."
