"""A session whose executions the test holds in its hand, and hosted models made of it."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from optimize.manifest import CurvePoint, Manifest
from optimize.registry import Registry
from optimize.runtime.batcher import Batcher, BatcherOptions
from optimize.runtime.curve import Curve
from optimize.runtime.session import Array, Arrays
from serve.hosting import Hosted
from tests.published import identity, publish

WAIT_S = 20.0
POISON = -666.0


class HeldSession:
    """y = x; every execution waits until it is let go, where `hold` is set. A row of POISON makes it raise."""

    def __init__(self) -> None:
        self.hold = False
        self.executions: list[int] = []
        self._started = threading.Semaphore(0)
        self._go = threading.Semaphore(0)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        assert outputs in (None, ["y"])
        x = inputs["x"]
        self.executions.append(len(x))
        self._started.release()
        if self.hold:
            assert self._go.acquire(timeout=WAIT_S)
        if np.any(x == POISON):
            raise ValueError(f"/secret/path/model.onnx cannot take {POISON}")
        return {"y": x.copy()}

    def wait_started(self) -> None:
        """Until one more execution has started."""
        assert self._started.acquire(timeout=WAIT_S)

    def let_go(self, executions: int = 1) -> None:
        self._go.release(executions)


def manifest_of(folder: Path, name: str) -> Manifest:
    """A published identity model's manifest, 1 to 8 rows."""
    publish(folder / "registry", name, identity(), folder)
    return Registry(folder / "registry").load(name)


def hosted(manifest: Manifest, session: HeldSession, *, batch_ms: float = 1.0, max_queue_rows: int = 32) -> Hosted:
    """The model over a held session whose batches are said to take `batch_ms`."""
    curve = Curve([CurvePoint({}, batch, batch_ms, batch_ms, 100) for batch in (1, 8)])
    options = BatcherOptions(max_batch=8, max_queue_rows=max_queue_rows, default_timeout_s=WAIT_S)
    return Hosted(manifest, Batcher([session], manifest.signature, curve, options))
