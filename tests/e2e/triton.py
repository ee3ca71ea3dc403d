"""Call a service with the stock tritonclient, in a process of its own since two stubs of the protocol cannot share one.

``python -m tests.e2e.triton ADDRESS MODEL`` prints what came back as JSON.
"""

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc as sync
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

X = np.arange(8, dtype=np.float32).reshape(2, 4)


def inputs(module: object, array: np.ndarray = X) -> list:
    tensor = module.InferInput("x", array.shape, "FP32")
    tensor.set_data_from_numpy(array)
    return [tensor]


async def infer_async(address: str, model: str) -> list:
    async with aio.InferenceServerClient(address) as client:
        result = await client.infer(model, inputs(aio), request_id="a-1", client_timeout=20)
    return [result.as_numpy("y").tolist(), result.get_response().id]


def refusal(client: sync.InferenceServerClient, model: str, **arguments: object) -> list[str]:
    try:
        client.infer(model, **arguments)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return []


def main(address: str, model: str) -> None:
    with sync.InferenceServerClient(address) as client:
        metadata = client.get_model_metadata(model)
        result = client.infer(model, inputs(sync), outputs=[sync.InferRequestedOutput("y")], client_timeout=20)
        found = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model),
            "metadata": [metadata.name, list(metadata.versions), metadata.inputs[0].datatype],
            "sync": result.as_numpy("y").tolist(),
            "async": asyncio.run(infer_async(address, model)),
            "unknown": refusal(client, "nobody", inputs=inputs(sync)),
            "shape": refusal(client, model, inputs=inputs(sync, X[:, :3])),
        }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
