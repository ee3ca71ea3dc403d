"""Why a request gets no answer, through no fault of the model.

Rejected
├── QueueFull          too many rows are queued; retry in `retry_after_s`, after those that were refused earlier
├── DeadlineExceeded   cannot be met (never run), passed in the queue (never run), or passed while it ran
└── Closed             draining or closed
"""

from optimize.errors import ProveserveError


class Rejected(ProveserveError):  # noqa: N818 - says what happened to the request, as its kinds do
    """The request was not answered, through no fault of the model."""


class QueueFull(Rejected):
    """Too many rows are queued already."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Rejected):
    """The answer would come, or came, after the deadline."""


class Closed(Rejected):
    """The batcher takes no more requests."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down; try another one")


def infeasible(left_s: float, needed_s: float) -> DeadlineExceeded:
    """The error for a request whose deadline cannot be met."""
    return DeadlineExceeded(
        f"{max(left_s, 0.0):.3f} s are left, but an answer may take {needed_s:.3f} s; allow more time"
    )
