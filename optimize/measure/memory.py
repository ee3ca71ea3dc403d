"""Peak resident memory of a process that serves an artefact, split into imports, loading and running."""

import importlib
import time
from itertools import cycle
from pathlib import Path

from msgspec import Struct

from optimize.budgets import BATCH
from optimize.errors import CandidateError
from optimize.manifest import Signature
from optimize.measure.workload import requests
from optimize.source.model_ref import ModelRef, opened

# By import string, since `serve` is above this package.
_SERVING = ("ray", "grpc", "serve.rayserve.deployment")
# Inputs count as memory of the process, so few of them are kept.
_DIFFERENT = 2
_STILL_CALLS = 10
_MAX_CALLS = 200
_MAX_S = 20.0


class Peak(Struct, frozen=True):
    """High-water marks of one fresh process in megabytes (10^6 bytes), each including the one before."""

    imports_mb: float
    load_mb: float
    peak_mb: float


def measure(model_ref: ModelRef, signature: Signature, split: Path) -> Peak:
    """Import what serving imports, load the artefact, and call it at the largest shape until the mark no longer rises.

    Call this in a fresh process with a split of few rows: the mark never falls, and all that was read counts.
    """
    for module in _SERVING:
        importlib.import_module(module)
    imports_mb = _high_water_mb()
    sizes = {name: dim.max for name, dim in signature.dims.items()} | {BATCH: signature.max_batch}
    inputs = requests(signature, split, sizes, _DIFFERENT)
    with opened(model_ref) as session:
        load_mb = _high_water_mb()
        start, still, peak_mb = time.monotonic(), 0, load_mb
        for calls, arrays in enumerate(cycle(inputs), 1):
            session.run(arrays)
            now_mb = _high_water_mb()
            still = still + 1 if now_mb == peak_mb else 0
            peak_mb = now_mb
            if still >= _STILL_CALLS or calls >= _MAX_CALLS or time.monotonic() - start > _MAX_S:
                break
    return Peak(imports_mb, load_mb, peak_mb)


def _high_water_mb() -> float:
    """VmHWM, which is reset in a new process; a fork inherits ru_maxrss from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise CandidateError("/proc/self/status has no VmHWM; memory is measured on Linux only")
