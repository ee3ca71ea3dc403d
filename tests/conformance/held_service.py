"""Held models on Ray Serve: ``python -m tests.conformance.held_service REGISTRY ROUTE SOCKET``.

All of `optimize serve` but the sessions, which the test controls through the Unix socket.
"""

import os
import sys

from serve import hardening
from serve.choices import Choice
from serve.interrupt import Interrupts
from serve.plan import Plan, Route
from tests.conformance.fakes import KINDS
from tests.serving import free_port


def main() -> None:
    registry, route, socket = sys.argv[1:]
    port = free_port()
    plan = Plan(registry, tuple(Choice(name, 1) for name in KINDS), "127.0.0.1", port, route=Route(route))
    os.environ.update(hardening.environment(plan))
    # Ray reads its settings when it is imported.
    from serve import app
    from tests.conformance.held_server import SOCKET, HeldServer

    os.environ[SOCKET] = socket
    app.ModelServer = HeldServer
    with Interrupts() as interrupts, app.running(plan, interrupts):
        print(f"READY held address={plan.addresses[0]}", flush=True)
        interrupts.wait()


if __name__ == "__main__":
    main()
