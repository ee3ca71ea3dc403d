"""A service for which every patch for speed is missing: ``python -m tests.serve.unpatched_service REGISTRY``."""

import os
import sys
from pathlib import Path
from typing import Any

from optimize.registry import Registry
from serve.patches import Patch, Purpose
from serve.plan import Plan
from serve.processes.signals import Interrupts
from serve.rayserve import ray_patches
from serve.served_versions import served_models
from serve.transport import grpc_patches
from tests.serving import free_port


def lose_speed() -> None:
    """Let this process look for names that its Ray and gRPC do not have, wherever a patch is for speed."""
    for module in (ray_patches, grpc_patches):
        for name, patch in vars(module).copy().items():
            if isinstance(patch, Patch) and patch.purpose is Purpose.SPEED:
                setattr(module, name, patch._replace(target=f"{patch.target}_moved"))


def main() -> None:
    registry = Registry(Path(sys.argv[1]))
    plan = Plan(registry.place, tuple(served_models(registry, [])), "127.0.0.1", free_port())
    os.environ.update(ray_patches.environment(plan))
    # Ray reads its settings when it is imported.
    from serve.rayserve import deployment, service

    class SlowServer(deployment.ModelServer):
        async def __init__(self, *arguments: Any) -> None:
            lose_speed()
            await super().__init__(*arguments)

    lose_speed()
    service.ModelServer = SlowServer
    with Interrupts() as interrupts, service.running(plan, interrupts):
        print(f"READY unpatched address={plan.addresses[0]}", flush=True)
        interrupts.wait()


if __name__ == "__main__":
    main()
