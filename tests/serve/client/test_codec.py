import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from optimize.errors import InputError
from protos import open_inference_pb2 as pb
from serve.client import codec

NUMBERS = [
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
ARRAYS = st.sampled_from(NUMBERS).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
TEXTS = hnp.arrays(object, SHAPES, elements=st.text(st.characters(exclude_categories=["Cs"])), fill=st.nothing())


def wanted(request: pb.ModelInferRequest) -> dict[str, str]:
    return {tensor.name: tensor.datatype for tensor in request.inputs}


def through_the_wire(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    return pb.ModelInferRequest.FromString(request.SerializeToString())


@given(st.dictionaries(st.text(min_size=1, max_size=8), ARRAYS | TEXTS, max_size=4))
def test_a_request_comes_back_bit_for_bit(inputs: dict[str, np.ndarray]) -> None:
    request = through_the_wire(codec.write_request("m", inputs))
    found = codec.read_inputs(request, wanted(request))
    assert list(found) == list(inputs)
    for name, array in inputs.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        assert found[name].tolist() == array.tolist() or found[name].tobytes() == array.tobytes()


@given(st.dictionaries(st.text(min_size=1, max_size=8), ARRAYS | TEXTS, min_size=1, max_size=4))
def test_a_response_comes_back_in_the_asked_order(outputs: dict[str, np.ndarray]) -> None:
    names = list(reversed(outputs))
    datatypes = {name: codec.datatype_of(array.dtype.name) for name, array in outputs.items()}
    response = pb.ModelInferResponse()
    codec.write_outputs(response, outputs, names, datatypes)
    found = codec.read_outputs(pb.ModelInferResponse.FromString(response.SerializeToString()))
    assert list(found) == names
    for name, array in outputs.items():
        assert found[name].tolist() == array.tolist() or found[name].tobytes() == array.tobytes()


@given(ARRAYS.filter(lambda array: array.dtype != np.float16) | TEXTS)
def test_typed_contents_equal_raw(array: np.ndarray) -> None:
    datatype = codec.datatype_of(array.dtype.name)
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    fields = {"b": "bool_contents", "u": "uint_contents", "i": "int_contents", "O": "bytes_contents"}
    wide = {"UINT64": "uint64_contents", "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents"}
    values = [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]
    getattr(tensor.contents, wide.get(datatype) or fields[array.dtype.kind]).extend(values)
    typed = codec.read_inputs(through_the_wire(request), {"x": datatype})["x"]
    raw = codec.read_inputs(codec.write_request("m", {"x": array}), {"x": datatype})["x"]
    assert typed.shape == raw.shape
    assert typed.tolist() == raw.tolist() or typed.tobytes() == raw.tobytes()


@given(
    st.sampled_from(codec.DATATYPES),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 5), max_size=40),
    st.binary(max_size=64),
    st.booleans(),
)
def test_whatever_is_sent_is_read_or_refused(datatype: str, shape: list[int], data: bytes, raw: bool) -> None:
    """Nothing but InputError comes out, and never more elements than were sent."""
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    if raw:
        request.raw_input_contents.append(data)
    else:
        tensor.contents.bytes_contents.append(data)
    with contextlib.suppress(InputError):
        array = codec.read_inputs(request, {"x": datatype})["x"]
        assert array.shape == tuple(shape)
        assert array.size <= max(1, len(data))


def test_raw_numbers_are_views_of_the_message() -> None:
    request = through_the_wire(codec.write_request("m", {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}))
    array = codec.read_inputs(request, {"x": "FP32"})["x"]
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_bf16_is_read_as_its_bits() -> None:
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[b"\x80\x3f\x00\x40"])
    request.inputs.add(name="x", datatype="BF16", shape=[2])
    assert codec.read_inputs(request, {"x": "BF16"})["x"].tolist() == [0x3F80, 0x4000]


def test_big_endian_and_strided_arrays_travel_in_row_major_little_endian() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    request = codec.write_request("m", {"x": array})
    np.testing.assert_array_equal(codec.read_inputs(request, {"x": "FP32"})["x"], array)


@pytest.mark.parametrize("array", [np.array(["a", "\u00fc"]), np.array([b"a", "\u00fc".encode()])])
def test_numpy_strings_travel_as_bytes(array: np.ndarray) -> None:
    request = codec.write_request("m", {"x": array})
    assert codec.read_inputs(request, {"x": "BYTES"})["x"].tolist() == ["a", "\u00fc"]


def test_a_dtype_that_the_protocol_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="complex64"):
        codec.write_request("m", {"x": np.zeros(1, np.complex64)})


@pytest.mark.parametrize(
    ("raw", "datatype", "said"),
    [
        (b"\xff" * 8, "BYTES", "ends inside element 0"),
        (b"\x02\x00\x00\x00\xff\xfe", "BYTES", "not UTF-8"),
        (b"\x02", "BOOL", "other than 0 and 1"),
        (b"\x00" * 5, "FP32", "has 5 bytes; wanted 4"),
    ],
)
def test_inputs_that_do_not_fit_are_named(raw: bytes, datatype: str, said: str) -> None:
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype=datatype, shape=[1])
    with pytest.raises(InputError, match=said):
        codec.read_inputs(request, {"x": datatype})


def test_a_wrong_field_of_typed_contents_is_named() -> None:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp64_contents.append(1.0)
    with pytest.raises(InputError, match="has fp64_contents for datatype FP32; wanted fp32_contents"):
        codec.read_inputs(request, {"x": "FP32"})


def test_a_very_long_name_is_cut_in_the_answer() -> None:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="n" * 100_000, datatype="FP32")
    with pytest.raises(InputError) as caught:
        codec.read_inputs(request, {"x": "FP32"})
    assert len(str(caught.value)) < 300
