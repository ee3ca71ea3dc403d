"""What a batcher counts."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from optimize.runtime.batching.histogram import ROWS, SECONDS, Histogram

Outcome = Literal["answered", "failed", "cancelled", "queue_full", "infeasible", "expired", "late", "closed"]


@dataclass(slots=True)
class Counters:
    """How all requests so far ended, and what the sessions did for them."""

    calls: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(get_args(Outcome), 0))
    execution_s: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS))
    failed_executions: int = 0
    failures_in_a_row: int = 0

    @property
    def executions(self) -> int:
        """Batches run so far."""
        return self.batch_rows.count

    @property
    def rows(self) -> int:
        """Rows of those batches."""
        return round(self.batch_rows.total)

    @property
    def busy_s(self) -> float:
        """Seconds that the sessions have worked, in total."""
        return self.execution_s.total
