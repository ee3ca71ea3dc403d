"""The serving status that grpc.health.v1 reports, per model and for the whole server."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from grpc_health.v1.health_pb2 import HealthCheckResponse

SERVER = ""
"""The name under which the protocol asks for the server as a whole."""

SERVING: int = HealthCheckResponse.SERVING
NOT_SERVING: int = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: int = HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Statuses by name; all NOT_SERVING at first, and again, for good, once closed. Lives on one event loop."""

    def __init__(self, names: Iterable[str]) -> None:
        self._statuses = dict.fromkeys((SERVER, *names), NOT_SERVING)
        self._closed = False
        self._changed = asyncio.Event()

    def status(self, name: str) -> int | None:
        """The status of that name; None where the name is unknown."""
        return self._statuses.get(name)

    def is_serving(self, name: str) -> bool:
        """Whether calls to that name are taken."""
        return self._statuses.get(name) == SERVING

    def set_serving(self, name: str) -> None:
        """A model can be called; the server can, once every model can."""
        if self._closed:
            return
        self._statuses[name] = SERVING
        if all(status == SERVING for other, status in self._statuses.items() if other != SERVER):
            self._statuses[SERVER] = SERVING
        self._wake()

    def close(self) -> None:
        """Nothing serves any more, and every watch ends after it has said so."""
        self._closed = True
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._wake()

    async def watch(self, name: str) -> AsyncIterator[int]:
        """The status of that name now and after each change, until closed."""
        told = None
        while True:
            changed = self._changed
            status = self._statuses.get(name, SERVICE_UNKNOWN)
            if status != told:
                told = status
                yield status
            if self._closed:
                return
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
