from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import objectstore


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server."""
    with objectstore.serving() as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_server: str, tmp_path: Path) -> Iterator[objectstore.Store]:
    """A bucket of the test's own, and a cache of its own for what is downloaded."""
    with objectstore.bucket(s3_server, tmp_path / "cache") as store:
        yield store
