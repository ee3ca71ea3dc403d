"""Every argument of every stage is part of the key that its result is found by."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from optimize.execution import keys, stage_runner
from optimize.execution.keys import DigestedPath, key_of_call
from optimize.source.model_ref import ModelRef
from tests.optimize.fake_exports import project
from tests.optimize.fake_stages import FakeStages, _stages

EVERYTHING: dict[str, Any] = {
    "data": "m.py:samples",
    "preprocess": "prep.py:prepare",
    "latency__p99_ms": 8.0,
    "memory__peak_mb": 500.0,
    "throughput__qps": 100.0,
    "throughput__p99_ms": 10.0,
    "inputs.x": {"dtype": "float32", "shape": ["batch", 4]},
    "outputs.logits": {"shape": ["batch", 3]},
    "dims.batch": {"min": 1, "opt": 1, "max": 8},
}
# A model that has a path is opened from there, not by its budgets; where a file lies decides nothing.
NOT_KEYED = {ModelRef: {"base", "path", "budgets"}, DigestedPath: {"path"}}
LOADS_THE_SOURCE = {"source", "inputs", "outputs"}


class KeyedCall(NamedTuple):
    """What a stage's key was made of."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    conditions: tuple[Any, ...]

    @property
    def of_source(self) -> bool:
        """Whether it is about the source model, whose key has other parts than a candidate's."""
        return any(isinstance(arg, ModelRef) and arg.path is None for arg in self.args)

    @property
    def key(self) -> str:
        return key_of_call(self.function, self.args, self.kwargs, *self.conditions)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[KeyedCall]:
    """The calls of one export with every budget."""
    made: list[KeyedCall] = []

    def recorded(function: Any, args: Any, kwargs: Any, *conditions: Any) -> str:
        made.append(KeyedCall(function, tuple(args), dict(kwargs), conditions))
        return key_of_call(function, args, kwargs, *conditions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_runner, "key_of_call", recorded)
        run = project(tmp_path_factory.mktemp("project"), **EVERYTHING).export(serving_modules=("ray",))
    assert run.winner == "fp32"
    return made


def changes(value: Any) -> Iterator[Any]:
    """The value with each thing that it holds changed in turn."""
    if value is None or isinstance(value, str | bool | int | float):
        yield 1 if value is None else f"{value}x" if isinstance(value, str) else value + 1
    elif isinstance(value, msgspec.Struct):
        yield from _changed_records(value)
    elif isinstance(value, dict):
        yield {**value, "another": 1}
        for name, entry in value.items():
            yield from ({**value, name: changed} for changed in changes(entry))
    else:
        assert isinstance(value, tuple | list), f"{value!r} has a type that this test does not know"
        yield [*value, 1]
        for index, entry in enumerate(value):
            yield from ([*value[:index], changed, *value[index + 1 :]] for changed in changes(entry))


def _changed_records(record: msgspec.Struct) -> Iterator[msgspec.Struct]:
    for name in set(record.__struct_fields__) - NOT_KEYED.get(type(record), set()):
        for changed in changes(getattr(record, name)):
            yield msgspec.structs.replace(record, **{name: changed})
    if isinstance(record, ModelRef) and record.path is None:
        for name in LOADS_THE_SOURCE:
            for changed in changes(getattr(record.budgets, name)):
                budgets = msgspec.structs.replace(record.budgets, **{name: changed})
                yield msgspec.structs.replace(record, budgets=budgets)


def test_every_stage_is_covered(calls: list[KeyedCall]) -> None:
    """Only reading the source has no key: it runs every time."""
    keyed = {call.function for call in calls}
    assert {name for function, (name, _) in _stages(FakeStages({})).items() if function not in keyed} == {"read"}


def test_each_argument_changes_the_key(calls: list[KeyedCall]) -> None:
    for call in {(call.function, call.of_source): call for call in calls}.values():
        others = [call._replace(args=tuple(args)) for args in list(changes(call.args))]
        others += [call._replace(kwargs=kwargs) for kwargs in changes(call.kwargs)]
        others += [call._replace(conditions=tuple(conditions)) for conditions in changes(call.conditions)]
        assert len(others) > len(call.args)
        lost = [other for other in others if other.key == call.key]
        assert not lost, f"{call.function.__module__}: {lost}"
        assert len({other.key for other in others}) == len(others)


def test_measurements_hold_for_one_machine_and_built_files_for_all(calls: list[KeyedCall]) -> None:
    built = {"convert", "code", "build", "golden"}
    names = {function: name for function, (name, _) in _stages(FakeStages({})).items()}
    for call in calls:
        machines = [condition for condition in call.conditions if type(condition).__name__ == "Machine"]
        assert (not machines) == (names[call.function] in built)
        assert any(isinstance(condition, dict) and "onnxruntime" in condition for condition in call.conditions)


def test_each_model_that_is_measured_has_a_digest(calls: list[KeyedCall]) -> None:
    models = [arg for call in calls for arg in call.args if isinstance(arg, ModelRef)]
    assert models
    with pytest.raises(TypeError, match="without a digest"):
        keys.key_of(msgspec.structs.replace(models[0], digest=""))


def test_no_argument_is_a_bare_path(calls: list[KeyedCall]) -> None:
    assert not [arg for call in calls for arg in (*call.args, *call.kwargs.values()) if isinstance(arg, Path)]
