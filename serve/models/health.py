"""The serving status that grpc.health.v1 reports, for each model and for the whole server."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from grpc_health.v1.health_pb2 import HealthCheckResponse

SERVER = ""
"""The protocol's name for the server as a whole."""

SERVING: int = HealthCheckResponse.SERVING
NOT_SERVING: int = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: int = HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Statuses by name: NOT_SERVING at first, and for ever once closed. For one event loop."""

    def __init__(self, names: Iterable[str]) -> None:
        self._statuses = dict.fromkeys((SERVER, *names), NOT_SERVING)
        self._closed = False
        self._changed = asyncio.Event()

    def status(self, name: str) -> int | None:
        """The status of a name; None if the name is unknown."""
        return self._statuses.get(name)

    def is_serving(self, name: str) -> bool:
        """Whether calls to a name are accepted."""
        return self._statuses.get(name) == SERVING

    def set_serving(self, name: str) -> None:
        """Report that a model can be called; once every model can, so can the server."""
        if self._closed:
            return
        self._statuses[name] = SERVING
        if all(status == SERVING for other, status in self._statuses.items() if other != SERVER):
            self._statuses[SERVER] = SERVING
        self._wake()

    def close(self) -> None:
        """Report that nothing is served any more; every watch ends after that."""
        self._closed = True
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._wake()

    async def watch(self, name: str) -> AsyncIterator[int]:
        """The status of a name now and after each change, until closed."""
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(name, SERVICE_UNKNOWN)
            if status != last:
                last = status
                yield status
            if self._closed:
                return
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
