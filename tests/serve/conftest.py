"""What the tests of the log share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve import logs


@pytest.fixture
def untouched_log() -> Iterator[None]:
    """What `begin` sets up is taken down again."""
    level, propagate = logs.LOGGER.level, logs.LOGGER.propagate
    yield
    logs.end()
    logs.LOGGER.setLevel(level)
    logs.LOGGER.propagate = propagate


@pytest.fixture
def path() -> Iterator[Path]:
    """Of a socket, whose length is limited."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "log"
