"""Held models on Ray Serve: ``python -m tests.conformance.held_service REGISTRY ROUTE SOCKET``.

All of `optimize serve` but the sessions, which the test controls through the Unix socket.
"""

import os
import sys

from serve.plan import Plan, Route
from serve.processes.signals import Interrupts
from serve.rayserve import ray_patches
from serve.served_versions import ServedModel
from tests.conformance.fakes import KINDS
from tests.serving import free_port


def main() -> None:
    registry, route, socket = sys.argv[1:]
    port = free_port()
    plan = Plan(registry, tuple(ServedModel(name, 1) for name in KINDS), "127.0.0.1", port, route=Route(route))
    os.environ.update(ray_patches.environment(plan))
    # Ray reads its settings when it is imported.
    from serve.rayserve import service
    from tests.conformance.held_server import SOCKET, HeldServer

    os.environ[SOCKET] = socket
    service.ModelServer = HeldServer
    with Interrupts() as interrupts, service.running(plan, interrupts):
        print(f"READY held address={plan.addresses[0]}", flush=True)
        interrupts.wait()


if __name__ == "__main__":
    main()
