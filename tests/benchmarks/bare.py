"""The servicer behind a plain grpc.aio server, without Ray: ``python -m tests.benchmarks.bare REGISTRY``, until its stdin ends."""

import asyncio
import sys
from pathlib import Path

import grpc

from optimize.registry import Registry
from serve.models.hosting import Models
from serve.transport.native_handlers import add_services
from serve.transport.servicer import Servicer
from tests.serving import SERVER_OPTIONS


async def main(registry: Registry) -> None:
    """Serve every published model on a free port, which is printed."""
    models = Models(registry.models())
    for name in registry.models():
        await models.load(registry, registry.load(name))
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_services(Servicer(models), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await models.drain()
    await server.stop(grace=1)


if __name__ == "__main__":
    asyncio.run(main(Registry(Path(sys.argv[1]))))
