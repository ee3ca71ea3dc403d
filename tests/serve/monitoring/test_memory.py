"""The memory that the versions of a replica were measured to need, and its own."""

import msgspec
import pytest

from optimize.manifest import Manifest, Verdict
from serve.monitoring.memory import PeakMemory, peak_memory, resident_mb, total_peak_memory
from tests.published import publish, scale


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A version without a memory budget."""
    return publish(tmp_path_factory.mktemp("registry"), "double", scale(2.0), tmp_path_factory.mktemp("models"))


def with_budget(manifest: Manifest, peak_mb: float | None, limit_mb: float) -> Manifest:
    """The same with a memory budget, among others."""
    size = Verdict("size.mb", 1.0, 0.5, None, None, 0, "PASS", "")
    memory = Verdict("memory.peak_mb", limit_mb, peak_mb, None, peak_mb, 3, "PASS", "")
    return msgspec.structs.replace(manifest, verdicts=(size, memory))


def test_peak_memory_of_a_version_is_what_was_measured_and_its_budget(bare: Manifest) -> None:
    assert peak_memory(bare) is None
    assert peak_memory(with_budget(bare, None, 900.0)) is None
    assert peak_memory(with_budget(bare, 310.5, 900.0)) == PeakMemory(310.5, 900.0)


def test_peaks_add_up_if_all_are_known(bare: Manifest) -> None:
    small, large = with_budget(bare, 150.0, 500.0), with_budget(bare, 600.0, 2000.0)
    assert total_peak_memory([]) is None
    assert total_peak_memory([small, bare]) is None
    assert total_peak_memory([small]) == PeakMemory(150.0, 500.0)
    assert total_peak_memory([small, large]) == PeakMemory(750.0, 2500.0)


def test_resident_memory_grows_by_what_is_held() -> None:
    before_mb = resident_mb()
    held_bytes = bytearray(b"x" * 100_000_000)
    assert resident_mb() - before_mb == pytest.approx(len(held_bytes) / 1e6, abs=20)
