"""Options of the whole suite."""

import signal

import pytest
from hypothesis import settings

# Started in the background, a shell's children ignore Ctrl-C, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure: pytest's own time limit ends a test that hangs.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--address",
        help="HOST:PORT of a running server that holds tests.conformance.models: run the blackbox cases against it, too",
    )
