"""A row is answered alike whatever shares its batch: alone, in calls of every size, and among other callers' rows."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from optimize.arrays import Arrays
from optimize.budgets import Dim
from optimize.recipes import int8_dynamic
from protos import open_inference_pb2_grpc
from serve.client import codec
from tests.conformance.conftest import TIMEOUT_S
from tests.optimize.recipes import exported
from tests.published import publish_file
from tests.serving import served

SEQUENCES = Dim(4, 16, 32)
MAX_BATCH = 8
ROWS = 24
# What budgets allow an INT8 candidate to change; the encoder's weights are random, so that its answers are as close as they get.
MIN_AGREEMENT = 0.95
RTOL = ATOL = 1e-4

Stub = open_inference_pb2_grpc.GRPCInferenceServiceStub


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    """`optimize serve` with an encoder in FP32 and INT8, whose rows may differ in length."""
    folder = tmp_path_factory.mktemp("encoder")
    source = exported.encoder(folder / "encoder.onnx")
    built = int8_dynamic.build(source, folder / "int8")
    dims = {"batch": Dim(1, 1, MAX_BATCH), "sequence": SEQUENCES}
    golden = [exported.sentences(1, SEQUENCES.opt, seed) for seed in range(8)]
    for name, path in (("fp32", source), ("int8-dynamic", built.files[0])):
        publish_file(folder / "registry", name, path, folder, golden, dims, pads={"ids": 0.0, "mask": 0.0})
    with served(folder / "registry") as running, grpc.insecure_channel(running.address) as channel:
        yield Stub(channel)


def logits_of(call: grpc.Future) -> np.ndarray:
    return codec.read_outputs(call.result())["logits"]


def start(stub: Stub, model: str, inputs: Arrays) -> grpc.Future:
    return stub.ModelInfer.future(codec.write_request(model, inputs, ["logits"]), timeout=TIMEOUT_S)


def rows_of(inputs: Arrays, first: int, count: int = 1) -> Arrays:
    return {name: array[first : first + count] for name, array in inputs.items()}


def alone(stub: Stub, model: str, rows: list[Arrays]) -> np.ndarray:
    return np.concatenate([logits_of(start(stub, model, row)) for row in rows])


def assert_alike(model: str, batched: np.ndarray, single: np.ndarray) -> None:
    """FP32 answers the same numbers; INT8, whose activations are scaled by batch, gives the same class often enough."""
    if model == "fp32":
        np.testing.assert_allclose(batched, single, rtol=RTOL, atol=ATOL)
    else:
        assert np.mean(batched.argmax(1) == single.argmax(1)) >= MIN_AGREEMENT


@pytest.mark.parametrize("model", ["fp32", "int8-dynamic"])
@pytest.mark.parametrize("length", [SEQUENCES.min, SEQUENCES.opt, SEQUENCES.max])
def test_batch_equivalence(stub: Stub, model: str, length: int) -> None:
    inputs = exported.sentences(ROWS, length, seed=length)
    single = alone(stub, model, [rows_of(inputs, row) for row in range(ROWS)])
    for size in range(2, MAX_BATCH + 1):
        calls = [start(stub, model, rows_of(inputs, first, size)) for first in range(0, ROWS, size)]
        assert_alike(model, np.concatenate([logits_of(call) for call in calls]), single)


@pytest.mark.parametrize("model", ["fp32", "int8-dynamic"])
def test_rows_of_other_callers_and_lengths_change_nothing(stub: Stub, model: str) -> None:
    lengths = np.random.default_rng(3).integers(SEQUENCES.min, SEQUENCES.max + 1, 200)
    rows = [exported.sentences(1, int(length), seed) for seed, length in enumerate(lengths)]
    single = alone(stub, model, rows)
    calls = [start(stub, model, row) for row in rows]
    assert_alike(model, np.concatenate([logits_of(call) for call in calls]), single)
    shared = [call.result().parameters["batch_rows"].int64_param for call in calls]
    assert max(shared) > 1, "no calls shared a batch"
