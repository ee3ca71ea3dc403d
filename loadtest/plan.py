"""The load generator's task, in a file that both processes share."""

from pathlib import Path
from typing import Any

import msgspec

from optimize.statistics.arrivals import Seconds
from serve.client.connection import Connection

PLAN_FILE = "plan.msgpack"
CALLS_FILE = "calls.npz"
TOKEN_VARIABLE = "PROVESERVE_TOKEN"  # noqa: S105 - the name of it
"""Environment variable with a bearer token: the user's, and the generator's."""


class Plan(msgspec.Struct, frozen=True):
    """Every call: when it is due, in seconds from the start, and what it carries, in rotation.

    A call without an answer `timeout_s` after it was sent is cancelled. Payloads are whole requests, ready for the wire. The
    connection has no token, which is never written to a file.
    """

    connection: Connection
    timeout_s: float
    due_s: tuple[float, ...]
    payloads: tuple[bytes, ...]


def plan(connection: Connection, timeout_s: float, due_s: Seconds, payloads: tuple[bytes, ...]) -> Plan:
    """A plan from a schedule that numpy holds."""
    without_token = msgspec.structs.replace(connection, token="")
    return Plan(without_token, timeout_s, tuple(due_s.tolist()), payloads)


def save(path: Path, plan: Plan) -> None:
    """Write the plan; the generator starts only after that."""
    path.write_bytes(msgspec.msgpack.encode(plan, enc_hook=str))  # paths


def load(path: Path) -> Plan:
    """Read a plan that :func:`save` wrote."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Plan, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    return kind(value)
