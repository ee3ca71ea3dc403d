"""Held models on Ray Serve: ``python -m tests.conformance.held_service REGISTRY ROUTE SOCKET``.

All of `optimize serve` but the sessions, which the test controls through the Unix socket.
"""

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from optimize.manifest import Manifest
from optimize.registry import Registry
from serve import cli, hardening, hosting
from serve.deployment import ModelServer
from serve.hosting import Hosted
from serve.interrupt import Interrupts
from serve.plan import Plan, Route
from tests.conformance.fakes import KINDS, HeldModel, HeldSession, answer_controls, hosted

SOCKET = "PROVESERVE_TEST_SOCKET"


class HeldServer(ModelServer):
    """A replica whose models are held."""

    async def __init__(self, plan: Plan) -> None:
        models: dict[str, HeldModel] = {}

        @contextlib.asynccontextmanager
        async def opened(_: Registry, manifest: Manifest, replicas: int = 1) -> AsyncIterator[Hosted]:
            session = HeldSession()
            ready = hosted(manifest, session)
            models[manifest.model] = HeldModel(session, ready.batcher)
            async with ready.batcher:
                yield ready

        hosting.opened = opened
        await super().__init__(plan)
        answer_controls(os.environ[SOCKET], models)


def main() -> None:
    registry, route, socket = sys.argv[1:]
    os.environ[SOCKET] = socket
    port = cli.free_ports("127.0.0.1", 0, 1)
    plan = Plan(registry, dict.fromkeys(KINDS, 1), "127.0.0.1", port, route=Route(route))
    os.environ.update(hardening.environment(plan))
    from serve import app  # ray reads its settings when it is imported
    from tests.conformance.held_service import HeldServer as ByName  # a class of `__main__` would travel by value

    app.ModelServer = ByName
    with Interrupts() as interrupts, app.running(plan, interrupts):
        print(f"READY held address={plan.addresses[0]}", flush=True)
        interrupts.wait()


if __name__ == "__main__":
    main()
