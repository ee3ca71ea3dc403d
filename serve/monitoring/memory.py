"""The memory of a replica, beside what its models were measured to take and what their budgets allow.

Both figures of a version come from its manifest: `memory.peak_mb` is held against the highest resident memory that a fresh process had
with that version alone, at the largest shape. A replica holds every version and Ray's worker besides, but has seen no such request yet
when it is ready. So it should be below the sum of the budgets then, and stay there under load.
"""

from collections.abc import Sequence
from typing import NamedTuple

import psutil

from optimize.manifest import Manifest

_BUDGET = "memory.peak_mb"


class Allowance(NamedTuple):
    """Megabytes (10^6 bytes) of resident memory at the peak, as measured and as allowed."""

    measured_peak_mb: float
    budget_mb: float


def allowance(manifest: Manifest) -> Allowance | None:
    """Of one version; None without a memory budget, since memory is measured for a budget only."""
    for verdict in manifest.verdicts:
        if verdict.budget == _BUDGET and verdict.observed is not None:
            return Allowance(verdict.observed, verdict.limit)
    return None


def together(manifests: Sequence[Manifest]) -> Allowance | None:
    """Of all versions of a replica; None where one has no memory budget, since a part of a sum would allow too little."""
    found = [one for manifest in manifests if (one := allowance(manifest)) is not None]
    if not found or len(found) < len(manifests):
        return None
    return Allowance(*map(sum, zip(*found, strict=True)))


def resident_mb() -> float:
    """Megabytes (10^6 bytes) of memory that this process holds now."""
    return float(psutil.Process().memory_info().rss) / 1e6
