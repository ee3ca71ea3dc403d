"""What the load generator is to do, in a file that the two processes meet in."""

from pathlib import Path

import msgspec

from loadtest.arrivals import Seconds

PLAN_FILE = "plan.msgpack"
CALLS_FILE = "calls.npz"


class Plan(msgspec.Struct, frozen=True):
    """Every call: when it is due, in seconds from the start, and what it carries, in rotation.

    A call without an answer `timeout_s` after it was sent is given up. Payloads are whole requests, ready for the wire.
    """

    target: str
    timeout_s: float
    due_s: tuple[float, ...]
    payloads: tuple[bytes, ...]


def plan(target: str, timeout_s: float, due_s: Seconds, payloads: tuple[bytes, ...]) -> Plan:
    """A plan from a schedule that numpy holds."""
    return Plan(target, timeout_s, tuple(due_s.tolist()), payloads)


def save(path: Path, plan: Plan) -> None:
    """Write the plan; the generator starts only after that."""
    path.write_bytes(msgspec.msgpack.encode(plan))


def load(path: Path) -> Plan:
    """Read a plan that :func:`save` wrote."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Plan)
