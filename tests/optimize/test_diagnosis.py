import importlib.util
import sys
from typing import Any

import pytest

from optimize import diagnosis
from optimize.manifest import Machine


def test_elsewhere_it_says_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    healthy, lines = diagnosis.diagnose()
    assert not healthy
    assert "\n".join(lines).startswith("platform: darwin. Linux only: ")


def test_missing_library_is_named_with_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without_ray(name: str, *args: Any) -> Any:
        return None if name == "ray" else real(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without_ray)
    healthy, lines = diagnosis.diagnose()
    assert not healthy
    assert "ray: missing; it serves and scores; install proveserve[cpu]" in lines


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (("avx2", "avx512_vnni"), "int8: has dot-product instructions"),
        (("avx2",), "int8: no dot-product instructions (VNNI)"),
    ],
)
def test_int8_support_is_read_off_the_instruction_sets(
    monkeypatch: pytest.MonkeyPatch, sets: tuple[str, ...], told: str
) -> None:
    monkeypatch.setattr(diagnosis, "describe", lambda: Machine("a processor", 4, 8000, sets))
    _, lines = diagnosis.diagnose()
    assert any(line.startswith(told) for line in lines)
    assert "processor: a processor, 4 cores, 8,000 MB of memory" in lines
