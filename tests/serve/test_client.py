import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from optimize.registry import Registry
from serve.client import Client
from serve.hosting import Models
from tests.conformance.models import pair
from tests.published import identity, publish
from tests.serving import bare

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("models")
    for name, model in (("identity", identity()), ("pair", pair())):
        publish(folder / "registry", name, model, folder)
    registry = Registry(folder / "registry")

    async def fill(models: Models) -> None:
        await asyncio.gather(*(models.load(registry, registry.load(name)) for name in registry.models()))

    with bare(registry.models(), fill) as server, Client(server.address) as found:
        yield found


def test_arrays_in_arrays_out(client: Client) -> None:
    prediction = client.infer("pair", {"x": X})
    assert list(prediction.outputs) == ["same", "twice"]
    np.testing.assert_array_equal(prediction.outputs["twice"], 2 * X)
    assert (prediction.model, prediction.version) == ("pair", "1")
    assert prediction.parameters["batch_rows"] == 2


def test_only_the_asked_outputs_of_the_asked_version(client: Client) -> None:
    assert list(client.infer("pair", {"x": X}, outputs=["twice"], version="1").outputs) == ["twice"]
    with pytest.raises(grpc.RpcError) as caught:
        client.infer("pair", {"x": X}, version="2")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_state_and_metadata(client: Client) -> None:
    assert client.ready()
    assert client.ready("pair")
    assert not client.ready("nobody")
    assert client.serving()
    assert client.serving("pair")
    assert client.metadata("pair").properties["max_batch"] == "8"


def test_nobody_listens(tmp_path: Path) -> None:
    with Client("127.0.0.1:1", timeout_s=2) as client, pytest.raises(grpc.RpcError) as caught:
        client.ready()
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
