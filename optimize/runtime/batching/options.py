"""The limits of one model's batcher."""

from dataclasses import dataclass

from optimize.runtime.batching.scheduling.scheduler import DEFAULT_AGEING_S


@dataclass(frozen=True)
class BatcherOptions:
    """At most `max_batch` rows share an execution, within what the signature allows, and at most `max_queue_rows` rows are queued.

    A request without a deadline gets `default_timeout_s`. One that has waited `ageing_s` may run before more urgent ones.
    """

    max_batch: int
    max_queue_rows: int
    default_timeout_s: float
    ageing_s: float = DEFAULT_AGEING_S

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("max_queue_rows", 0), ("default_timeout_s", 0), ("ageing_s", 0)):
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"{name} is {value}; wanted {least} or more")
