"""The memory of a replica, compared with what its models were measured to need and what their budgets allow.

Both figures of a version come from its manifest: the budget `memory.peak_mb` limits the highest resident memory that a fresh
process had with that version alone, at the largest shape. A replica holds all versions and Ray's worker, but has seen no request
when it becomes ready. So it should be below the sum of the budgets then, and stay there under load.
"""

from collections.abc import Sequence
from typing import NamedTuple

import psutil

from optimize.manifest import Manifest

_BUDGET = "memory.peak_mb"


class PeakMemory(NamedTuple):
    """Megabytes (10^6 bytes) of resident memory at the peak, as measured and as allowed."""

    measured_peak_mb: float
    budget_mb: float


def peak_memory(manifest: Manifest) -> PeakMemory | None:
    """The peak of one version; None without a memory budget, since memory is measured for a budget only."""
    for verdict in manifest.verdicts:
        if verdict.budget == _BUDGET and verdict.observed is not None:
            return PeakMemory(verdict.observed, verdict.limit)
    return None


def total_peak_memory(manifests: Sequence[Manifest]) -> PeakMemory | None:
    """The sum over all versions of a replica; None if one has no memory budget, since the sum would allow too little."""
    found = [one for manifest in manifests if (one := peak_memory(manifest)) is not None]
    if not found or len(found) < len(manifests):
        return None
    return PeakMemory(*map(sum, zip(*found, strict=True)))


def resident_mb() -> float:
    """Megabytes (10^6 bytes) of memory that this process holds now."""
    return float(psutil.Process().memory_info().rss) / 1e6
