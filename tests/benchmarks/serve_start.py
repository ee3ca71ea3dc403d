"""How long a service takes to be ready, and what memory it then holds, as its own log tells."""

import json
import time
from pathlib import Path
from typing import Any

from optimize.registry import Registry
from serve.monitoring.memory import peak_memory
from tests.serving import Served, served

TIMEOUT_S = 10.0


def start(registry: Registry) -> None:
    """Claim s, for one replica that holds the current version of every model."""
    models = registry.models()
    with served(Path(registry.place)) as service:
        ready, replica = (_event(service, name) for name in ("ready", "replica_ready"))
    claim = f"s  seconds from start to ready ({', '.join(models)})"
    print(f"{claim:78}{ready['seconds']:7.1f}   wanted < 30", flush=True)
    print(f"s  memory of the replica, ready and idle: {replica['resident_mb']:.0f} MB", flush=True)
    for manifest in map(registry.load, models):
        allowed = peak_memory(manifest)
        found = (
            "no budget, so not measured"
            if allowed is None
            else f"peak of its process {allowed.measured_peak_mb:.0f} MB as measured, budget {allowed.budget_mb:.0f} MB"
        )
        print(f"s  {manifest.model} {manifest.candidate}: {found}", flush=True)


def _event(service: Served, name: str) -> dict[str, Any]:
    """The first event of that name; lines of the log arrive a moment after READY."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for line in service.output.copy():
            if line.startswith("{") and (found := json.loads(line))["event"] == name:
                return found
        time.sleep(0.05)
    raise SystemExit(f"the log did not tell {name!r} within {TIMEOUT_S:g} s")
