"""Options of the whole suite."""

import pytest
from hypothesis import settings

# A busy machine is no failure: pytest's own time limit ends a test that hangs.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--address",
        help="HOST:PORT of a running server that holds tests.conformance.models: run the blackbox cases against it, too",
    )
