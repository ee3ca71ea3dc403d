"""`optimize serve` on two Ray nodes of this machine: ``python -m tests.conformance.two_nodes REGISTRY FOLDER [--haproxy]``.

One replica runs on each; either node has room for both.
"""

import os
import sys
from pathlib import Path
from typing import Any

from optimize.registry import Registry
from serve.cli import with_ports
from serve.plan import Plan
from serve.processes.signals import Interrupts
from serve.rayserve import ray_patches
from serve.served_versions import served_models

REPLICAS = 2
STORE_BYTES = 80 << 20


def joined(options: dict[str, Any]) -> dict[str, Any]:
    """Start two nodes, and return the arguments with which `ray.init` joins them instead of starting one."""
    from ray.cluster_utils import Cluster

    node = {
        "num_cpus": REPLICAS,
        "object_store_memory": STORE_BYTES,
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "temp_dir": options["_temp_dir"],
    }
    cluster = Cluster(initialize_head=True, head_node_args=node, shutdown_at_exit=False)
    cluster.add_node(**node)
    kept = {"log_to_driver", "logging_level", "runtime_env", "_node_ip_address"}
    return {"address": cluster.address, **{name: options[name] for name in kept}}


def main() -> None:
    registry = Registry(sys.argv[1])
    plan = Plan(str(Path(sys.argv[1]).absolute()), tuple(served_models(registry, [])), "127.0.0.1", 0, REPLICAS)
    plan = with_ports(plan, in_front="--haproxy" in sys.argv)
    os.environ.update(ray_patches.environment(plan))
    os.environ["RAY_TMPDIR"] = sys.argv[2]  # where the first node writes its address, for others to find
    # Ray reads its settings when it is imported.
    import ray

    from serve.rayserve import service

    start = ray.init
    ray.init = lambda **options: start(**joined(options))
    with Interrupts() as interrupts, service.running(plan, interrupts):
        metrics = ",".join(f"127.0.0.1:{port}" for port in plan.metrics_ports)
        print(f"READY scaled address={','.join(plan.addresses)} metrics={metrics} ", flush=True)
        interrupts.wait()


if __name__ == "__main__":
    main()
