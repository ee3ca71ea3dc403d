"""Options of the whole suite."""

import signal
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

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


SHARE_A_SERVICE = {
    "tests/conformance/test_blackbox.py": "the service of tests.conformance.models",
    "tests/conformance/test_limits.py": "the service of tests.conformance.models",
}
"""Files whose tests call the same service, and its name."""
LONGEST = ("tests/e2e/test_export.py", *SHARE_A_SERVICE)
START_PROCESSES = ("tests/e2e/", "tests/conformance/", "tests/loadtest/", "tests/serve/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several workers share the tests, long files come first, so that none of them is left alone with one at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (not item.nodeid.startswith(LONGEST), not item.nodeid.startswith(START_PROCESSES)))


class FilesAndServices(LoadFileScheduling):
    """One worker runs all tests of a file, and of files that share a service, so that each fixture is set up once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return SHARE_A_SERVICE.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesAndServices:
    return FilesAndServices(config, log)
