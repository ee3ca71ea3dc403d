from pathlib import Path

import pytest

from optimize.errors import UserError
from optimize.registry import Registry
from serve.served_versions import ServedModel, served_models
from tests.published import publish, scale


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """`a` has versions 1, 2 and 3, of which 2 is current; `b` has one."""
    folder = tmp_path_factory.mktemp("choices")
    for factor in (1.0, 2.0, 3.0):
        publish(folder / "registry", "a", scale(factor), folder)
    publish(folder / "registry", "b", scale(1.0), folder)
    registry = Registry(folder / "registry")
    registry.promote("a", 2)
    return registry


def test_every_model_follows_its_current_version_unless_some_are_named(registry: Registry) -> None:
    assert served_models(registry, []) == [ServedModel("a", 2), ServedModel("b", 1)]
    assert served_models(registry, ["b", "b"]) == [ServedModel("b", 1)]


def test_a_named_version_is_pinned_and_the_first_answers(registry: Registry) -> None:
    assert served_models(registry, ["a@3", "a@1", "a@3"]) == [ServedModel("a", 3, follows=False, pinned=(3, 1))]


def test_a_pinned_version_answers_next_to_the_current_one(registry: Registry) -> None:
    (choice,) = served_models(registry, ["a@1", "a"])
    assert choice == ServedModel("a", 2, follows=True, pinned=(1,))
    assert choice.versions == (2, 1)
    assert served_models(registry, ["a", "a@2"])[0].versions == (2,)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("c", r"model 'c' is not published in .*; wanted one of a, b"),
        ("c@1", r"model 'c' is not published in .*; wanted one of a, b"),
        ("a@x", r"--model a@x: 'x' is no version number; wanted a, or a version such as a@1"),
        ("a@", r"--model a@: '' is no version number"),
        (f"a@{'9' * 5000}", r"is no version number; wanted a, or a version such as a@1"),
        ("a@9", r"--model a@9: no such version is published in .*; wanted one of 1, 2, 3"),
    ],
)
def test_what_is_not_published_is_refused_with_what_is(registry: Registry, asked: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        served_models(registry, [asked])


def test_an_empty_registry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model is published there"):
        served_models(Registry(tmp_path), [])
