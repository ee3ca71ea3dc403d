"""Options of the whole suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--address",
        help="HOST:PORT of a running server that holds tests.conformance.models: run the blackbox cases against it, too",
    )
