"""Errors as gRPC statuses: the right code, and a text that reveals nothing about the inside of the server."""

from dataclasses import dataclass

import grpc

from optimize.errors import InputError
from optimize.runtime.batching import rejections
from serve.access.auth import PermissionDenied, Unauthenticated
from serve.metadata_keys import PUSHBACK_KEY
from serve.models.refused import Refused

_CODES: dict[type[Exception], grpc.StatusCode] = {
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    InputError: grpc.StatusCode.INVALID_ARGUMENT,
}


@dataclass(frozen=True, slots=True)
class Status:
    """A final status: its code, its text, and when the caller may retry, if that helps."""

    code: grpc.StatusCode
    text: str
    retry_after_ms: int | None = None

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """The hint about when to retry, if there is one."""
        return () if self.retry_after_ms is None else ((PUSHBACK_KEY, str(self.retry_after_ms)),)


def status_of(error: Exception) -> Status:
    """The status that a failed call ends with; INTERNAL, without details, for an unexpected error."""
    match error:
        case Refused():
            return Status(error.code, str(error))
        case Unauthenticated() | PermissionDenied() | InputError():
            return Status(_CODES[type(error)], str(error))
        case rejections.QueueFull():
            after_ms = max(1, round(error.retry_after_s * 1e3))
            return Status(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"the model's queue is full; try again in {after_ms} ms", after_ms
            )
        case rejections.DeadlineExceeded() | TimeoutError():
            return Status(grpc.StatusCode.DEADLINE_EXCEEDED, "the answer would come, or came, after the deadline")
        case rejections.Closed():
            return Status(grpc.StatusCode.UNAVAILABLE, "the server is stopping; call another, or try again")
        case _:
            return Status(grpc.StatusCode.INTERNAL, "the model failed on this request")
