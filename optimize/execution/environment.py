"""Where an export runs: what starts its stages, the machine and its tools, and the time.

All that an export takes from outside its files comes from here, so that a test can replace it.
"""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import onnxruntime

from optimize.execution.isolation import DEFAULT_TIMEOUT_S, Isolated
from optimize.execution.machine import describe, tools
from optimize.manifest import Machine


class Clock:
    """The time of day, and the time that passes."""

    def now(self) -> datetime:
        """The time of day, in UTC."""
        return datetime.now(UTC)

    def elapsed_s(self) -> float:
        """Seconds since some moment in the past; never goes backwards."""
        return time.monotonic()


@dataclass(frozen=True)
class Environment:
    """What starts a stage, the machine, the versions of its tools, onnxruntime's providers, and the time."""

    isolated: Isolated
    machine: Machine
    tools: dict[str, str]
    providers: tuple[str, ...]
    clock: Clock = field(default_factory=Clock)


def here(timeout_s: float = DEFAULT_TIMEOUT_S, memory_mb: float | None = None) -> Environment:
    """The machine that runs this, with limits for every stage."""
    providers = tuple(onnxruntime.get_available_providers())
    return Environment(Isolated(timeout_s, memory_mb), describe(), tools(), providers)
