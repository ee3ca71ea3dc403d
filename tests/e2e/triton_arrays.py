"""Ask a model for answers with the stock tritonclient, in a process of its own since two stubs of the protocol cannot share one.

``python -m tests.e2e.triton_arrays ADDRESS MODEL REQUESTS ANSWERS`` prints the model's metadata as JSON. REQUESTS is an .npz file with
arrays REQUEST/INPUT; ANSWERS gets arrays REQUEST/HOW/OUTPUT, where HOW is one of `raw`, `typed`, `raw_async` and `typed_async`.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as sync
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import aio, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

Arrays = dict[str, np.ndarray]
TIMEOUT_S = 30
CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}


def requests(path: Path) -> dict[str, Arrays]:
    found: dict[str, Arrays] = {}
    with np.load(path) as archive:
        for key in archive.files:
            request, name = key.split("/")
            array = archive[key]
            found.setdefault(request, {})[name] = array.astype(object) if array.dtype.kind == "U" else array
    return found


def tensors(module: Any, arrays: Arrays) -> list:
    """Inputs as tritonclient's users make them; it sends them raw."""
    made = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def message(model: str, arrays: Arrays) -> service_pb2.ModelInferRequest:
    """The same with typed contents, for which tritonclient has stubs alone."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        datatype = np_to_triton_dtype(array.dtype)
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        values = [text.encode() for text in array.ravel()] if datatype == "BYTES" else array.ravel().tolist()
        getattr(tensor.contents, CONTENTS[datatype]).extend(values)
    return request


def outputs(result: sync.InferResult) -> Arrays:
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def ask(address: str, model: str, arrays: Arrays) -> dict[str, Arrays]:
    with sync.InferenceServerClient(address) as client:
        raw = client.infer(model, tensors(sync, arrays), client_timeout=TIMEOUT_S)
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        typed = stub.ModelInfer(message(model, arrays), timeout=TIMEOUT_S)
    return {"raw": outputs(raw), "typed": outputs(sync.InferResult(typed))}


async def ask_async(address: str, model: str, arrays: Arrays) -> dict[str, Arrays]:
    async with aio.InferenceServerClient(address) as client:
        raw = await client.infer(model, tensors(aio, arrays), client_timeout=TIMEOUT_S)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        typed = await stub.ModelInfer(message(model, arrays), timeout=TIMEOUT_S)
    return {"raw_async": outputs(raw), "typed_async": outputs(sync.InferResult(typed))}


def main(address: str, model: str, requests_path: str, answers_path: str) -> None:
    answers = {}
    for request, arrays in requests(Path(requests_path)).items():
        found = ask(address, model, arrays) | asyncio.run(ask_async(address, model, arrays))
        for how, made in found.items():
            answers.update({f"{request}/{how}/{name}": array for name, array in made.items()})
    np.savez(answers_path, **answers)
    with sync.InferenceServerClient(address) as client:
        sys.stdout.write(json.dumps(MessageToDict(client.get_model_metadata(model))))


if __name__ == "__main__":
    main(*sys.argv[1:])
