"""One call: its request is parsed and checked against its token, its end is counted, and an unexpected error is logged."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from optimize.errors import InputError
from serve import logs
from serve.access.auth import AuthToken
from serve.metadata_keys import TRACEPARENT_KEY
from serve.transport.rpcs import Rpc
from serve.transport.servicer import Servicer
from serve.transport.status import Status, status_of

_MAX_LOGGED = 128  # characters of what a client chose


class PublicContext(Protocol):
    """What Ray Serve gives a deployment's method in place of gRPC's context."""

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """What the caller sent with the message."""

    def set_code(self, code: grpc.StatusCode) -> None:
        """Choose the final code."""

    def set_details(self, details: str) -> None:
        """Choose the final text."""

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        """Choose what follows the answer."""


AnyContext: TypeAlias = grpc.aio.ServicerContext | PublicContext


class Call:
    """A call in progress, as a context manager: an error ends there, and `status` says how the call has to end."""

    __slots__ = ("_context", "_id", "_model", "_rpc", "_servicer", "status")

    def __init__(self, servicer: Servicer, rpc: Rpc, context: AnyContext) -> None:
        self._servicer = servicer
        self._rpc = rpc
        self._context = context
        self._model = ""
        self._id = ""
        self.status = Status(grpc.StatusCode.OK, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """The process boundary: an `Exception` ends here, while a cancellation goes on."""
        code = grpc.StatusCode.OK if kind is None else grpc.StatusCode.CANCELLED
        if isinstance(error, Exception):
            self.status = status_of(error)
            code = self.status.code
            if code is grpc.StatusCode.INTERNAL:
                self._log(error)
        self._servicer.calls.end(self._rpc.name, self._model, code)
        return self.failed

    @property
    def failed(self) -> bool:
        """Whether an error ended it."""
        return self.status.code is not grpc.StatusCode.OK

    def parse(self, raw: bytes, token: AuthToken) -> Message:
        """The request, if the token has a right to its model.

        Raises:
            InputError: The bytes are not the method's message.
            PermissionDenied: The token has no right to the model.
        """
        try:
            request = self._rpc.request.FromString(raw)
        except DecodeError:
            raise InputError(f"the request's bytes are no message that {self._rpc.name} takes") from None
        model = self._rpc.model(request)
        if model in self._servicer.models:
            self._model = model
        self._id = getattr(request, "id", "")
        if self._rpc.model_field is not None:
            token.check_model(model)
        return request

    def _log(self, error: Exception) -> None:
        """The cause of an INTERNAL, which the caller does not learn."""
        logs.event(
            "call_failed",
            logging.ERROR,
            error,
            method=self._rpc.name,
            model=self._model,
            request_id=self._id[:_MAX_LOGGED] or None,
            traceparent=_traceparent(self._context)[:_MAX_LOGGED] or None,
        )


def _traceparent(context: AnyContext) -> str:
    """The call's place in a trace; empty if the client names none."""
    found = (value for key, value in context.invocation_metadata() or () if key == TRACEPARENT_KEY)
    return str(next(found, ""))


def abort(context: grpc.aio.ServicerContext, status: Status) -> Any:
    """An awaitable that ends a call with a status and nothing before it: gRPC's clients do not retry a call that has an answer."""
    return context.abort(status.code, status.text, status.trailing_metadata)


@asynccontextmanager
async def aborting(
    context: grpc.aio.ServicerContext, count: Callable[[grpc.StatusCode], None] = lambda _: None
) -> AsyncIterator[None]:
    """End a call that fails in the block with the status of the error, which is counted."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
        status = status_of(error)
        count(status.code)
        await abort(context, status)
