"""Cases that run against any address: ``pytest tests/conformance --address HOST:PORT``, where tests.conformance.models are served."""

import asyncio
import random
import struct
import time
from collections import Counter
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc
from serve.client import codec
from tests.conformance import models
from tests.conformance.conftest import TIMEOUT_S, Target

ModelInfer = pb.ModelInferRequest
LIMIT_BYTES = 64 << 20


def request_of(x: np.ndarray, model: str = "identity", **fields: object) -> ModelInfer:
    request = codec.write_request(model, {"x": x})
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def changed(x: np.ndarray, change: Callable[[ModelInfer], object], model: str = "identity") -> ModelInfer:
    request = request_of(x, model)
    change(request)
    return request


def test_live(target: Target) -> None:
    assert target.stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT_S).live
    assert target.stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S).ready
    assert target.accepts("identity")


def test_server_metadata(target: Target) -> None:
    metadata = target.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=TIMEOUT_S)
    assert metadata.name
    assert metadata.version


def test_model_metadata(target: Target) -> None:
    metadata = target.stub.ModelMetadata(pb.ModelMetadataRequest(name="pair"), timeout=TIMEOUT_S)
    assert metadata.name == "pair"
    assert "1" in metadata.versions
    assert [(x.name, x.datatype, list(x.shape)) for x in metadata.inputs] == [("x", "FP32", [-1, 4])]
    assert [output.name for output in metadata.outputs] == ["same", "twice"]


def test_model_unknown(target: Target, x: np.ndarray) -> None:
    assert target.refusal(request_of(x, "nobody"))[0] is StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        target.stub.ModelMetadata(pb.ModelMetadataRequest(name="nobody"), timeout=TIMEOUT_S)
    assert caught.value.code() is StatusCode.NOT_FOUND


def test_model_ready_unknown(target: Target) -> None:
    assert not target.accepts("nobody")


@pytest.mark.parametrize(
    ("version", "code"),
    [("99", StatusCode.NOT_FOUND), ("x", StatusCode.INVALID_ARGUMENT), ("-1", StatusCode.INVALID_ARGUMENT)],
)
def test_version_unknown_or_garbage(target: Target, x: np.ndarray, version: str, code: StatusCode) -> None:
    assert target.refusal(request_of(x, model_version=version))[0] is code


@pytest.mark.parametrize(
    "name", ["../etc", "/etc/passwd", "a\0b", "m" * (1 << 20), ""], ids=lambda name: repr(name[:8])
)
def test_name_hostile(target: Target, x: np.ndarray, name: str) -> None:
    code, text = target.refusal(request_of(x, name))
    assert code in {StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND}
    assert "/" not in text
    assert len(text) < 2000


def test_input_missing(target: Target, x: np.ndarray) -> None:
    code, text = target.refusal(ModelInfer(model_name="identity"))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "'x'" in text


def test_input_extra(target: Target, x: np.ndarray) -> None:
    code, text = target.refusal(codec.write_request("identity", {"x": x, "more": x}))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "'more'" in text


def test_input_duplicate(target: Target, x: np.ndarray) -> None:
    request = request_of(x)
    request.MergeFrom(ModelInfer(inputs=request.inputs, raw_input_contents=request.raw_input_contents))
    code, text = target.refusal(request)
    assert code is StatusCode.INVALID_ARGUMENT
    assert "'x'" in text


@pytest.mark.parametrize("names", [["nothing"], ["same", "same"]])
def test_output_unknown_or_duplicate(target: Target, x: np.ndarray, names: list[str]) -> None:
    assert target.refusal(codec.write_request("pair", {"x": x}, names))[0] is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("names", [["twice"], ["twice", "same"], []])
def test_output_subset(target: Target, x: np.ndarray, names: list[str]) -> None:
    response = target.infer(codec.write_request("pair", {"x": x}, names))
    assert [output.name for output in response.outputs] == (names or ["same", "twice"])
    outputs = codec.read_outputs(response)
    np.testing.assert_array_equal(outputs["twice"], 2 * x)


def test_id_echo(target: Target, x: np.ndarray) -> None:
    response = target.infer(request_of(x, id="call-7"))
    assert (response.id, response.model_name, response.model_version) == ("call-7", "identity", "1")


@pytest.mark.parametrize("datatype", ["INT32", "FP7", "FP64", ""])
def test_dtype_wrong_or_unknown(target: Target, x: np.ndarray, datatype: str) -> None:
    code, text = target.refusal(changed(x, lambda r: setattr(r.inputs[0], "datatype", datatype)))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "'x'" in text
    assert "FP32" in text


@pytest.mark.parametrize(
    "shape",
    [[8], [2, 2, 2], [-1, 4], [2, -4], [1 << 40, 1 << 40], [2, 5], [0, 1 << 62], [1] * 40, [(1 << 63) - 1, 4]],
    ids=str,
)
def test_shape_of_wrong_rank_or_size(target: Target, x: np.ndarray, shape: list[int]) -> None:
    request = request_of(x)
    request.inputs[0].shape[:] = shape
    code, text = target.refusal(request)
    assert code is StatusCode.INVALID_ARGUMENT
    assert "'x'" in text


@pytest.mark.parametrize("rows", [0, 9])
def test_rows_over_max_or_zero(target: Target, rows: int) -> None:
    code, text = target.refusal(request_of(np.zeros((rows, 4), np.float32)))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "batch" in text
    assert "1 to 8" in text


@pytest.mark.parametrize("raw", [b"", b"\0" * 31, b"\0" * 33])
def test_raw_size_mismatch(target: Target, x: np.ndarray, raw: bytes) -> None:
    request = request_of(x)
    request.raw_input_contents[:] = [raw]
    code, text = target.refusal(request)
    assert code is StatusCode.INVALID_ARGUMENT
    assert "32" in text


def test_raw_count_few_and_many(target: Target, x: np.ndarray) -> None:
    few = changed(x, lambda r: r.raw_input_contents.pop())
    many = changed(x, lambda r: r.raw_input_contents.append(b""))
    assert target.refusal(few)[0] is StatusCode.INVALID_ARGUMENT
    assert target.refusal(many)[0] is StatusCode.INVALID_ARGUMENT


def test_raw_and_contents(target: Target, x: np.ndarray) -> None:
    request = changed(x, lambda r: r.inputs[0].contents.fp32_contents.extend(x.ravel()))
    assert target.refusal(request)[0] is StatusCode.INVALID_ARGUMENT


def test_fp16_in_contents(target: Target, x: np.ndarray) -> None:
    request = ModelInfer(model_name="identity_FP16")
    request.inputs.add(name="x", datatype="FP16", shape=[2, 4]).contents.fp32_contents.extend(x.ravel())
    code, text = target.refusal(request)
    assert code is StatusCode.INVALID_ARGUMENT
    assert "raw" in text


FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def values_of(datatype: str) -> np.ndarray:
    if datatype == "BYTES":
        return np.array([["", "a", "\u00fc", "x" * 300]], dtype=object)
    if datatype == "BOOL":
        return np.array([[True, False, False, True]])
    kind = np.dtype({"FP16": "float16", "FP32": "float32", "FP64": "float64"}.get(datatype, datatype.lower()))
    if kind.kind == "f":
        return np.array([[0.5, -1.25, 0.0, 3.0]], dtype=kind)
    limits = np.iinfo(kind)
    return np.array([[limits.min, limits.max, 0, 1]], dtype=kind)


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_contents(target: Target, datatype: str) -> None:
    sent = values_of(datatype)
    request = ModelInfer(model_name=models.identity_of(datatype))
    tensor = request.inputs.add(name="x", datatype=datatype, shape=sent.shape)
    elements = [value.encode() if datatype == "BYTES" else value for value in sent.ravel().tolist()]
    getattr(tensor.contents, FIELDS[datatype]).extend(elements)
    typed = target.infer(request)
    raw = target.infer(codec.write_request(models.identity_of(datatype), {"x": sent}))
    assert typed.raw_output_contents == raw.raw_output_contents
    np.testing.assert_array_equal(codec.read_outputs(typed)["y"], sent)


def test_raw_fp16(target: Target) -> None:
    sent = values_of("FP16")
    answer = codec.read_outputs(target.infer(codec.write_request("identity_FP16", {"x": sent})))["y"]
    assert answer.tobytes() == sent.tobytes()


def test_typed_contents_out_of_range(target: Target) -> None:
    request = ModelInfer(model_name="identity_INT8")
    request.inputs.add(name="x", datatype="INT8", shape=[1, 4]).contents.int_contents.extend([1, 2, 3, 300])
    assert target.refusal(request)[0] is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "raw",
    [struct.pack("<I", 1 << 31) + b"ab", struct.pack("<I", 0) * 3 + b"\0\0\0", struct.pack("<I", 2) + b"a", b"\0" * 20],
)
def test_bytes_truncated(target: Target, raw: bytes) -> None:
    request = ModelInfer(model_name="identity_BYTES", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype="BYTES", shape=[1, 4])
    assert target.refusal(request)[0] is StatusCode.INVALID_ARGUMENT


def test_nan_inf(target: Target) -> None:
    sent = np.array([[np.nan, np.inf, -np.inf, -0.0]], dtype=np.float32)
    answer = codec.read_outputs(target.infer(request_of(sent)))["y"]
    assert answer.tobytes() == sent.tobytes()


def test_garbage_message(target: Target) -> None:
    call = target.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    codes = set()
    for seed in range(1000):
        source = random.Random(seed)
        garbage = source.randbytes(source.randrange(1, 200))
        with pytest.raises(grpc.RpcError) as caught:
            call(garbage, timeout=TIMEOUT_S)
        codes.add(caught.value.code())
        assert "Error" not in caught.value.details()
        assert "ModelInferRequest" not in caught.value.details()
    # Some garbage is a message of unknown fields only, which names no model.
    assert StatusCode.INVALID_ARGUMENT in codes
    assert codes <= {StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND}


def test_message_too_large(target: Target) -> None:
    request = ModelInfer(model_name="identity", raw_input_contents=[b"\0" * LIMIT_BYTES])
    assert target.refusal(request)[0] is StatusCode.RESOURCE_EXHAUSTED


def test_unknown_method(target: Target) -> None:
    call = target.channel.unary_unary("/inference.GRPCInferenceService/Nope")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=TIMEOUT_S)
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


def test_health(target: Target) -> None:
    health = health_pb2_grpc.HealthStub(target.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "identity"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S).status == serving
        watch = health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S)
        assert next(watch).status == serving
        watch.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT_S)
    assert caught.value.code() is StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_compression(target: Target, x: np.ndarray) -> None:
    response = target.stub.ModelInfer(request_of(x), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
    np.testing.assert_array_equal(codec.read_outputs(response)["y"], x)


def test_deadline_is_over_before_the_model_can_answer(target: Target, x: np.ndarray) -> None:
    request = request_of(x)
    request.parameters["timeout"].int64_param = 1
    started = time.monotonic()
    assert target.refusal(request)[0] is StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("parameter", ["timeout", "priority"])
def test_parameter_of_the_wrong_kind(target: Target, x: np.ndarray, parameter: str) -> None:
    request = request_of(x)
    request.parameters[parameter].string_param = "soon"
    code, text = target.refusal(request)
    assert code is StatusCode.INVALID_ARGUMENT
    assert parameter in text


def test_answers_tell_what_they_cost(target: Target, x: np.ndarray) -> None:
    parameters = target.infer(request_of(x)).parameters
    assert parameters["batch_rows"].int64_param >= 2
    assert parameters["execution_us"].int64_param > 0
    assert {"queue_us", "codec_us"} <= set(parameters)


@pytest.mark.parametrize("count", [150])
def test_streams(target: Target, x: np.ndarray, count: int) -> None:
    calls = [target.stub.ModelInfer.future(request_of(x + index), timeout=TIMEOUT_S) for index in range(count)]
    for index, call in enumerate(calls):
        np.testing.assert_array_equal(codec.read_outputs(call.result())["y"], x + index)


@pytest.mark.parametrize(
    ("total", "at_once"), [(2_000, 100), (4_000, 4_000), pytest.param(10_000, 1_000, marks=pytest.mark.slow)]
)
def test_no_cross_talk(target: Target, total: int, at_once: int) -> None:
    """Many concurrent calls with distinct inputs, a tenth cancelled: every answer belongs to its call, and none is lost."""

    async def drive() -> Counter[str]:
        slots = asyncio.Semaphore(at_once)
        async with grpc.aio.insecure_channel(target.address) as channel:
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)

            async def one(index: int) -> str:
                async with slots:
                    sent = np.full((1 + index % 3, 4), index, np.float32)
                    call = stub.ModelInfer(request_of(sent), timeout=TIMEOUT_S)
                    if index % 10 == 0:
                        asyncio.get_running_loop().call_later(0.001 * (index % 7), call.cancel)
                    try:
                        response = await call
                    except asyncio.CancelledError:
                        return "cancelled" if index % 10 == 0 else "lost"
                    except grpc.aio.AioRpcError as error:
                        return error.code().name
                    np.testing.assert_array_equal(codec.read_outputs(response)["y"], sent)
                    return "answered"

            return Counter(await asyncio.gather(*(one(index) for index in range(total))))

    ends = asyncio.run(drive())
    assert ends.keys() <= {"answered", "cancelled", "RESOURCE_EXHAUSTED"}, ends
    if at_once <= 100:
        assert ends["answered"] >= total * 9 // 10
