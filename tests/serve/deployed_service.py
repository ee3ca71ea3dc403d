"""A service that Ray deploys from a config file: ``python -m tests.serve.deployed_service FILE``.

All of `serve deploy` but its way to the cluster, which is a Ray of this process, with every socket on loopback.
"""

import os
import sys
from pathlib import Path

import msgspec

from serve.processes.signals import Interrupts
from serve.rayserve import cluster_config, ray_patches
from tests.serving import free_port


def main() -> None:
    document = msgspec.yaml.decode(Path(sys.argv[1]).read_bytes())
    application = document["applications"][0]
    port = free_port()
    application["args"] |= {"port": port, "metrics_port": 0}
    most = application["deployments"][0].get("autoscaling_config", {}).get("max_replicas", 1)
    plan = msgspec.structs.replace(cluster_config.plan_of(application["args"]), replicas=most)
    os.environ.update(ray_patches.environment(plan))
    # Ray reads its settings when it is imported.
    import ray.serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    from serve.rayserve import service

    def run(*_: object) -> ray.serve.handle.DeploymentHandle:
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(document), _blocking=True)
        return ray.serve.get_app_handle(application["name"])

    service._run = run
    with Interrupts() as interrupts, service.running(plan, interrupts):
        print(f"READY deployed address={plan.addresses[0]}", flush=True)
        interrupts.wait()


if __name__ == "__main__":
    main()
