"""What a replica's memory is read against."""

import msgspec
import pytest

from optimize.manifest import Manifest, Verdict
from serve.monitoring.memory import Allowance, allowance, resident_mb, together
from tests.published import publish, scale


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A version without a memory budget."""
    return publish(tmp_path_factory.mktemp("registry"), "double", scale(2.0), tmp_path_factory.mktemp("models"))


def held(manifest: Manifest, peak_mb: float | None, limit_mb: float) -> Manifest:
    """The same, held against a memory budget among others."""
    size = Verdict("size.mb", 1.0, 0.5, None, None, 0, "PASS", "")
    memory = Verdict("memory.peak_mb", limit_mb, peak_mb, None, peak_mb, 3, "PASS", "")
    return msgspec.structs.replace(manifest, verdicts=(size, memory))


def test_an_allowance_is_what_was_measured_and_what_may_be(bare: Manifest) -> None:
    assert allowance(bare) is None
    assert allowance(held(bare, None, 900.0)) is None
    assert allowance(held(bare, 310.5, 900.0)) == Allowance(310.5, 900.0)


def test_allowances_add_up_where_all_are_known(bare: Manifest) -> None:
    small, large = held(bare, 150.0, 500.0), held(bare, 600.0, 2000.0)
    assert together([]) is None
    assert together([small, bare]) is None
    assert together([small]) == Allowance(150.0, 500.0)
    assert together([small, large]) == Allowance(750.0, 2500.0)


def test_resident_memory_grows_by_what_is_held() -> None:
    before_mb = resident_mb()
    held_bytes = bytearray(b"x" * 100_000_000)
    assert resident_mb() - before_mb == pytest.approx(len(held_bytes) / 1e6, abs=20)
