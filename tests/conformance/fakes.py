"""Models whose executions the test holds in its hand, in this process or in a replica's."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.errors import ExecutionError
from optimize.manifest import CurvePoint, Manifest
from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.scheduling.curve import Curve
from serve.models.loading import LoadedVersion
from tests.published import identity, publish

WAIT_S = 20.0
POISON = -666.0


class HeldSession:
    """y = x; while it is held, every execution waits until it is let go. A row of POISON makes it raise."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = False
        self._allowed = 0
        self._started = 0
        self._executions: list[int] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        assert outputs in (None, ["y"])
        x = inputs["x"]
        with self._changed:
            self._executions.append(len(x))
            self._started += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._held or self._allowed, WAIT_S)
            self._allowed -= self._held
        if np.any(x == POISON):
            raise ExecutionError(f"/secret/path/model.onnx cannot take {POISON}")
        return {"y": x.copy()}

    def hold(self) -> None:
        with self._changed:
            self._held = True

    def let_go(self) -> None:
        """One execution, the one that waits or the next."""
        with self._changed:
            self._allowed += 1
            self._changed.notify_all()

    def release(self) -> None:
        """All executions, from now on."""
        with self._changed:
            self._held = False
            self._allowed = 0
            self._changed.notify_all()

    def wait_started(self) -> None:
        """Until one more execution has started."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._started, WAIT_S)
            self._started -= 1

    def forget(self) -> None:
        """What was executed so far."""
        with self._changed:
            self._started = 0
            self._executions.clear()

    def executions(self) -> list[int]:
        """Rows of each execution."""
        with self._changed:
            return list(self._executions)


@dataclass(frozen=True)
class HeldModel:
    """A held session and the batcher in front of it; what is asked of it may come from another process."""

    session: HeldSession
    batcher: Batcher

    def ask(self, what: str) -> Any:
        if what == "queued_rows":
            return self.batcher.queued_rows
        if what == "running":
            return self.batcher.running
        return getattr(self.session, what)()


@dataclass(frozen=True)
class RemoteModel:
    """A held model in another process, by its name."""

    connection: Connection
    name: str

    def ask(self, what: str) -> Any:
        self.connection.send((self.name, what))
        assert self.connection.poll(2 * WAIT_S), f"no word from the replica about {what}"
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer_controls(path: str, models: Mapping[str, HeldModel]) -> None:
    """Do what a test asks of the held models of this process, over a Unix socket, from a thread of its own."""
    listener = Listener(path, "AF_UNIX")
    threading.Thread(target=_answer, args=(listener, models), name="controls", daemon=True).start()


def _answer(listener: Listener, models: Mapping[str, HeldModel]) -> None:
    with listener, listener.accept() as connection:
        while True:
            try:
                name, what = connection.recv()
            except EOFError:
                return
            try:
                connection.send(models[name].ask(what))
            except AssertionError as error:
                connection.send(error)


@dataclass(frozen=True)
class Kind:
    """The options of a held model's batcher: how long a batch takes, and how many rows may wait."""

    batch_ms: float = 1.0
    max_queue_rows: int = 32


KINDS = {"held": Kind(), "short": Kind(max_queue_rows=8), "long": Kind(batch_ms=5000.0)}
"""Held models by name."""


def publish_held(folder: Path) -> Path:
    """A registry of the held models: identities of 1 to 8 rows."""
    for name in KINDS:
        publish(folder / "registry", name, identity(), folder)
    return folder / "registry"


def hosted(manifest: Manifest, session: HeldSession) -> LoadedVersion:
    """The model over a held session."""
    kind = KINDS[manifest.model]
    curve = Curve([CurvePoint({}, batch, kind.batch_ms, kind.batch_ms, 100) for batch in (1, 8)])
    options = BatcherOptions(max_batch=8, max_queue_rows=kind.max_queue_rows, default_timeout_s=WAIT_S)
    return LoadedVersion(manifest, Batcher([session], manifest.signature, curve, options))
