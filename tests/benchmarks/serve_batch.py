"""The model behind Ray Serve's `@serve.batch`: a batch is sealed when it is full, or when its first call has waited so long."""

import asyncio
from typing import Any

import numpy as np
import ray.serve

from optimize.execution.machine import cores
from optimize.registry import Registry
from optimize.runtime.session import OnnxSession
from protos import open_inference_pb2 as pb
from serve.client import codec
from serve.plan import Plan
from tests.benchmarks.serve_rivals import BATCH_WAIT_S

CORES = cores()
MAX_ONGOING = 100_000


class BatchServer:
    """ModelInfer alone; requests of one row that may share a batch."""

    def __init__(self, plan: Plan) -> None:
        registry = Registry(plan.registry)
        self.manifest = registry.load(plan.models[0].name)
        signature = self.manifest.signature
        self.session = OnnxSession(registry.model_file(self.manifest), self.manifest.artifact.options)
        self.datatypes = {spec.name: codec.datatype_of(spec.dtype) for spec in signature.inputs}
        self.outputs = {spec.name: codec.datatype_of(spec.dtype) for spec in signature.outputs}
        self.axes = {spec.name: spec.batch_axis for spec in (*signature.inputs, *signature.outputs)}
        self._run_batch.set_max_batch_size(signature.max_batch)

    @ray.serve.batch(max_batch_size=32, batch_wait_timeout_s=BATCH_WAIT_S, max_concurrent_batches=CORES)
    async def _run_batch(self, requests: list[Any]) -> list[Any]:
        joined = {name: np.concatenate([inputs[name] for inputs in requests], self.axes[name]) for name in requests[0]}
        outputs = await asyncio.to_thread(self.session.run, joined)
        return [
            {name: np.take(array, [row], self.axes[name]) for name, array in outputs.items()}
            for row in range(len(requests))
        ]

    async def ModelInfer(self, request: bytes) -> pb.ModelInferResponse:  # noqa: N802 - the protocol's name
        message = pb.ModelInferRequest.FromString(request)
        answer = await self._run_batch(codec.read_inputs(message, self.datatypes))
        response = pb.ModelInferResponse(model_name=self.manifest.model)
        codec.write_outputs(response, answer, list(self.outputs), self.outputs)
        return response


def build(plan: Plan) -> ray.serve.Application:
    """The application."""
    return (
        ray.serve.deployment(BatchServer)
        .options(max_ongoing_requests=MAX_ONGOING, ray_actor_options={"num_cpus": 1})
        .bind(plan)
    )
