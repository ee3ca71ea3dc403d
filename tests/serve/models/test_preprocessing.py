"""Raw columns over a real port, next to the model's own inputs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from optimize.registry import Registry
from protos import open_inference_pb2 as pb
from serve.client import Client, codec
from serve.models.hosting import Models
from tests import preprocessing
from tests.serving import Bare, bare


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Bare]:
    preprocessing.publish(tmp_path / "registry", "counts", 2.0, tmp_path)
    registry = Registry(tmp_path / "registry")

    async def fill(models: Models) -> None:
        await models.load(registry, registry.load("counts"))

    with bare(["counts"], fill) as running:
        yield running


def texts(*values: str) -> dict[str, np.ndarray]:
    return {"text": np.array(values, dtype=object)}


def test_raw_columns_are_answered_as_the_inputs_made_of_them(server: Bare) -> None:
    with Client(server.address) as client:
        raw = client.infer("counts", texts("two words", "naïve")).outputs["y"]
        made = np.array([preprocessing.counted("two words"), preprocessing.counted("naïve")], np.float32)
        ready = client.infer("counts", {"x": made}).outputs["y"]
        assert client.metadata("counts").properties["raw.text"] == "BYTES [-1]"
    np.testing.assert_array_equal(raw, 2 * made)
    np.testing.assert_array_equal(ready, raw)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (
            texts("refuse me"),
            "the columns cannot be preprocessed; wanted columns such as those the model was measured with",
        ),
        ({"text": np.zeros(2, np.float32)}, "input 'text' has datatype FP32; wanted BYTES"),
        ({"text": np.full((1, 2), "a", dtype=object)}, "rank 2 where rank 1 is wanted"),
        (texts(*["a"] * 9), "batch is 9, its range is 1 to 8"),
        (texts("a") | {"x": np.zeros((1, 4), np.float32)}, "input 'text' is not one of the model's; wanted x"),
    ],
)
def test_columns_that_do_not_fit_are_refused(server: Bare, columns: dict[str, np.ndarray], found: str) -> None:
    with Client(server.address) as client:
        with pytest.raises(grpc.RpcError) as refused:
            client.infer("counts", columns)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert found in refused.value.details()
        assert client.infer("counts", texts("a")).outputs["y"].tolist() == [[2, 2, 0, 2]]


def test_the_parameter_decides_if_the_names_do_not(server: Bare) -> None:
    request = codec.write_request("counts", texts("a"))
    request.parameters["preprocess"].bool_param = False
    with grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        with pytest.raises(grpc.RpcError, match="wanted x"):
            infer(request, timeout=10)
        request.parameters["preprocess"].bool_param = True
        assert codec.read_outputs(infer(request, timeout=10))["y"].tolist() == [[2, 2, 0, 2]]


def test_a_version_that_replaces_another_uses_its_own_preprocessing(tmp_path: Path, server: Bare) -> None:
    (tmp_path / "next").mkdir()
    other = preprocessing.CODE | {"alphabet.py": 'VOWELS = set("w")\n'}
    preprocessing.publish(tmp_path / "registry", "counts", 3.0, tmp_path / "next", other)
    registry = Registry(tmp_path / "registry")
    first = server.models.find("counts", "")
    assert first.preprocessing is not None
    began, go_on = asyncio.Event(), asyncio.Event()
    original = first.preprocessing.inputs

    async def held(request: pb.ModelInferRequest) -> dict[str, np.ndarray]:
        inputs = await original(request)
        began.set()
        await go_on.wait()
        return inputs

    first.preprocessing.inputs = held  # type: ignore[method-assign] # holds one call between its preprocessing and its model

    async def swap() -> None:
        await began.wait()
        await server.models.load(registry, registry.load("counts", 2))
        server.models.set_default("counts", 2)
        await server.models.unload("counts", 1)
        go_on.set()

    swapping = server.spawn(swap())
    with Client(server.address, max_attempts=1) as client:
        answer = client.infer("counts", texts("wow"))
    swapping.result(10)
    assert answer.version == "2"
    assert answer.outputs["y"].tolist() == [[9, 6, 0, 3]]
