"""What a call passes before anything looks at its message: its auth token, its deadline, and the time its message may take.

gRPC would read the one message of a call, however large and slow, before it called a handler. So every method is registered as
one that takes a stream, and reads that one message itself, after these checks.
"""

import asyncio
import time

import grpc

from serve.access.auth import AuthToken
from serve.models.refused import Refused
from serve.transport.limits import BODY_TIMEOUT_S
from serve.transport.rpcs import INFER, Rpc
from serve.transport.servicer import Servicer


def deadline_of(context: grpc.aio.ServicerContext) -> float | None:
    """The deadline of a call on the monotonic clock; None if it has none."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + remaining_s


async def admit(
    servicer: Servicer, rpc: Rpc, context: grpc.aio.ServicerContext, deadline: float | None
) -> tuple[bytes, AuthToken]:
    """The bytes of a call's message, and the token that the call has.

    Raises:
        Unauthenticated: The call needs a token that this service knows.
        Rejected: It asks for a prediction, and no model could make one in time, whatever the message says.
        Refused: The message did not arrive in time.
    """
    token = servicer.authenticator.authenticate(rpc.path, context.invocation_metadata())
    _check_deadline(servicer, rpc, deadline)
    raw = await read_message(context)
    _check_deadline(servicer, rpc, deadline)  # once more: calls that arrived meanwhile may have filled the queues
    return raw, token


def _check_deadline(servicer: Servicer, rpc: Rpc, deadline: float | None) -> None:
    """Refuse a prediction that no model could make in time.

    Raises:
        Rejected: As :meth:`Models.refusal` says.
    """
    if rpc.name == INFER and (refusal := servicer.models.refusal(deadline)) is not None:
        servicer.calls.unread += 1
        try:
            raise refusal
        finally:
            # The error refers to this frame, and the frame to the error: a cycle that costs the garbage collector more than the call.
            del refusal


async def read_message(context: grpc.aio.ServicerContext) -> bytes:
    """The bytes of a call's message, once they have arrived.

    Raises:
        Refused: They did not arrive in time.
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await context.read()
    except TimeoutError:
        raise Refused(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"the request did not arrive within {BODY_TIMEOUT_S:g} s; send it again"
        ) from None
    # A caller that closed its side without a message sent what an empty message looks like.
    return b"" if raw is grpc.aio.EOF else bytes(raw)
