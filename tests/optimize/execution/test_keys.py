from pathlib import Path
from typing import Any

import pytest

from optimize.budgets import Dim
from optimize.execution.keys import DigestedPath, key_of, key_of_call, received
from tests.optimize import steps


def test_key_is_made_of_everything_that_it_is_given() -> None:
    parts = ("stage", Dim(1, 2, 3), {"b": 1, "a": 2}, (1.5, None))
    assert key_of(*parts) == key_of("stage", Dim(1, 2, 3), {"a": 2, "b": 1}, [1.5, None])
    others = [
        ("stage", Dim(1, 2, 4), {"b": 1, "a": 2}, (1.5, None)),
        ("other", Dim(1, 2, 3), {"b": 1, "a": 2}, (1.5, None)),
        ("stage", Dim(1, 2, 3), {"b": 1, "a": 3}, (1.5, None)),
        ("stage", Dim(1, 2, 3), {"b": 1, "a": 2}, (1.5, 0)),
        ("stage", Dim(1, 2, 3), {"b": 1, "a": 2}, ("1.5", None)),
        ("stage", Dim(1, 2, 3), {"b": 1, "a": 2}),
    ]
    assert len({key_of(*parts), *(key_of(*other) for other in others)}) == 7


def test_key_of_a_call_differs_with_function_arguments_and_conditions() -> None:
    calls: list[Any] = [
        key_of_call(steps.add, (1,), {}),
        key_of_call(steps.grows, (1,), {}),
        key_of_call(steps.add, (2,), {}),
        key_of_call(steps.add, (1,), {"b": 0}),
        key_of_call(steps.add, (1,), {}, "machine"),
    ]
    assert len(set(calls)) == 5


def test_file_is_known_by_its_digest_wherever_it_lies() -> None:
    here, elsewhere, other = (DigestedPath(Path(path), digest) for path, digest in (("a", "1"), ("b", "1"), ("a", "2")))
    assert key_of(here) == key_of(elsewhere) != key_of(other)
    assert received((here, 1, other)) == (Path("a"), 1, Path("a"))


@pytest.mark.parametrize("value", [Path("a"), [Path("a")], {"a": Path("a")}, object(), {1, 2}])
def test_value_without_contents_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"pass a file or a folder as a DigestedPath"):
        key_of("stage", value)
