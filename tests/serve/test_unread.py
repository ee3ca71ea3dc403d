"""Calls that no model could answer in time, over a real port: they are refused without a look at their message, and leave nothing."""

import gc
import json
from collections.abc import Iterator

import grpc
import pytest

from optimize.runtime.batching.rejections import QueueFull
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc
from serve.metadata_keys import PUSHBACK_KEY
from serve.models.hosting import Models
from serve.transport.call import Call
from tests.serving import Bare, bare, until

UNKNOWN = pb.ModelInferRequest(model_name="nobody")


@pytest.fixture
def server() -> Iterator[Bare]:
    async def nothing(_: Models) -> None:
        """No model has to be there."""

    with bare(["double"], nothing) as running:
        yield running


def refused(server: Bare, calls: int = 1) -> list[grpc.RpcError]:
    errors = []
    with grpc.insecure_channel(server.address) as channel:
        infer = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for _ in range(calls):
            with pytest.raises(grpc.RpcError) as caught:
                infer(UNKNOWN, timeout=20)
            errors.append(caught.value)
    return errors


@pytest.mark.parametrize("asked", [[True], [False, True]])
def test_a_refusal_is_the_same_before_and_after_the_message_arrived(
    server: Bare, monkeypatch: pytest.MonkeyPatch, asked: list[bool]
) -> None:
    answers = iter(asked)
    monkeypatch.setattr(server.models, "refusal", lambda _: QueueFull("full", 0.25) if next(answers) else None)
    (error,) = refused(server)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata())[PUSHBACK_KEY] == "250"
    assert server.servicer.calls.unread == 1
    # The caller may know that it has ended before the server does.
    until(lambda: server.servicer.calls.ended == {("ModelInfer", "", "RESOURCE_EXHAUSTED"): 1})


def test_a_message_is_read_if_the_call_is_not_refused(server: Bare) -> None:
    (error,) = refused(server)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert server.servicer.calls.unread == 0


RETRY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "60s",
                "maxBackoff": "60s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
            },
        }
    ]
}


def test_a_stock_client_retries_when_the_hint_says(server: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([QueueFull("full", 0.01), None, None])
    monkeypatch.setattr(server.models, "refusal", lambda _: next(answers))
    options = [("grpc.service_config", json.dumps(RETRY))]
    with grpc.insecure_channel(server.address, options) as channel, pytest.raises(grpc.RpcError) as caught:
        open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(UNKNOWN, timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND, "its own pause would have been 48 s or more"
    assert server.servicer.calls.unread == 1


def kept() -> list[object]:
    return [found for found in gc.get_objects() if type(found) in (Call, QueueFull)]


def test_a_refused_call_leaves_nothing_to_the_garbage_collector(server: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.models, "refusal", lambda _: QueueFull("full", 0.25))
    gc.collect()
    gc.disable()
    before = len(kept())
    try:
        refused(server, 20)
        until(lambda: len(kept()) <= before)
    finally:
        gc.enable()
