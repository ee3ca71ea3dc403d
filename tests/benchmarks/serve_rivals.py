"""Other ways to serve the same model: ``python -m tests.benchmarks.serve_rivals KIND REGISTRY MODEL``, until its stdin ends.

proxy   our deployment behind Ray Serve's own gRPC proxy, as Serve comes
batch   Ray Serve's `@serve.batch` with a fixed wait, on replicas that take calls themselves
eager   PyTorch eager in FP32, JSON over HTTP, one process (uvicorn): how a model is often served first
"""

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optimize.registry import Registry
from serve.plan import Plan, Route
from serve.rayserve import ray_patches
from serve.served_versions import ServedModel
from serve.transport import grpc_patches
from tests.serving import free_port

REPOSITORY = Path(__file__).parents[2]
BATCH_WAIT_S = 0.01
_PROXY_SETTINGS = ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_DIRECT_INGRESS_", "RAY_SERVE_PORT_")


def on_loopback() -> None:
    """Ray's worker hook: gRPC servers of Serve, its proxies included, listen on loopback."""
    grpc_patches.keep_to_loopback()


@contextlib.contextmanager
def deployed(plan: Plan, application: Any, hook: str) -> Iterator[None]:
    """A Ray of our own with one application on it."""
    import ray.serve
    from ray.serve.config import gRPCOptions
    from ray.serve.schema import LoggingConfig

    from serve.processes.process_reaper import MARK, reaping

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="proveserve-", dir="/tmp"))
    with reaping(folder) as mark:
        os.environ[MARK] = mark
        os.environ["PYTHONPATH"] = str(REPOSITORY)  # workers import the hook before they know the driver's path
        ray_patches.redirect_daemon_output(lambda text: print(text, file=sys.stderr))
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=80 << 20,
            runtime_env={"worker_process_setup_hook": hook},
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
        )
        try:
            ray.serve.start(
                http_options={"host": "127.0.0.1", "port": free_port()},
                grpc_options=gRPCOptions(
                    port=plan.port,
                    grpc_servicer_functions=["serve.rayserve.ray_patches.add_services"],
                    enable_reflection=False,
                ),
                logging_config=LoggingConfig(log_level="ERROR"),
            )
            ray.serve.run(application(), name="rival", route_prefix="/rival")
            yield
        finally:
            ray_patches.redirect_daemon_output(lambda _: None)  # from here on, actors are meant to die
            ray.serve.shutdown()
            ray.shutdown()


def proxy(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Serve's gRPC proxy in front of our deployment."""
    settings = ray_patches.environment(plan)
    os.environ.update({name: value for name, value in settings.items() if not name.startswith(_PROXY_SETTINGS)})
    from serve.rayserve import service

    return deployed(plan, lambda: service.build(plan), "tests.benchmarks.serve_rivals.on_loopback")


def batch(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """`@serve.batch`, without a proxy."""
    os.environ.update(ray_patches.environment(plan))
    from tests.benchmarks.serve_batch import build

    return deployed(plan, lambda: build(plan), ray_patches.WORKER_HOOK)


def eager(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """JSON over HTTP."""
    import numpy as np
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route as HttpRoute

    from optimize.source.model import load_torch
    from tests.benchmarks.serve_models import as_json

    manifest = Registry(plan.registry).load(plan.models[0].name)
    model = load_torch(manifest.budgets, Path.cwd(), len(os.sched_getaffinity(0)))
    dtypes = {spec.name: spec.dtype for spec in manifest.signature.inputs}

    async def infer(request: Any) -> JSONResponse:
        body = await request.json()
        inputs = {name: np.asarray(values, dtypes[name]) for name, values in body.items()}
        return JSONResponse(as_json(await asyncio.to_thread(model.run, inputs)))

    @contextlib.contextmanager
    def running() -> Iterator[None]:
        config = uvicorn.Config(
            Starlette(routes=[HttpRoute("/infer", infer, methods=["POST"])]),
            host=plan.host,
            port=plan.port,
            log_level="error",
            access_log=False,
            backlog=16_384,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                thread.join(0.05)
            yield
        finally:
            server.should_exit = True
            thread.join()

    return running()


def main() -> None:
    """Start one of them, and print its address."""
    kind, registry, model = sys.argv[1:]
    version = Registry(registry).load(model).version
    port = free_port()
    plan = Plan(registry, (ServedModel(model, version),), "127.0.0.1", port, route=Route.PUBLIC)
    with {"proxy": proxy, "batch": batch, "eager": eager}[kind](plan):
        print(f"127.0.0.1:{port}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
