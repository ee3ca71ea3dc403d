"""A replica whose models are held."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from optimize.manifest import Manifest
from optimize.registry import Registry
from serve.models import loading
from serve.models.loading import LoadedVersion
from serve.plan import Plan
from serve.rayserve.deployment import ModelServer
from tests.conformance.fakes import HeldModel, HeldSession, answer_controls, hosted

SOCKET = "PROVESERVE_TEST_SOCKET"
"""The environment variable that names the Unix socket by which a test controls the models."""


class HeldServer(ModelServer):
    """Everything that a replica is, but the sessions."""

    async def __init__(self, plan: Plan, relay: Path | None) -> None:
        models: dict[str, HeldModel] = {}

        @contextlib.asynccontextmanager
        async def loaded(_: Registry, manifest: Manifest, replicas: int = 1) -> AsyncIterator[LoadedVersion]:
            session = HeldSession()
            ready = hosted(manifest, session)
            models[manifest.model] = HeldModel(session, ready.batcher)
            async with ready.batcher:
                yield ready

        loading.loaded = loaded
        await super().__init__(plan, relay)
        answer_controls(os.environ[SOCKET], models)
