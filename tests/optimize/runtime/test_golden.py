import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from optimize.arrays import Array, Arrays
from optimize.errors import ArtifactError, ExecutionError
from optimize.manifest import Blob, Golden
from optimize.registry import Registry
from optimize.runtime.golden import replay
from optimize.runtime.session import OnnxSession
from tests.published import identity, publish


@dataclasses.dataclass
class FakeSession:
    """Answers with a function of its inputs."""

    answer: Callable[[Mapping[str, Array]], Arrays]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:  # noqa: ARG002
        return self.answer(inputs)


def golden(count: int = 1, atol: float = 1e-3, rtol: float = 0.0) -> Golden:
    return Golden(Blob("golden.npz", "0" * 64, 1), count, atol, rtol)


def stored(folder: Path, **arrays: Array) -> Path:
    path = folder / "golden"
    with path.open("wb") as file:
        np.savez(file, **{key.replace("__", "/"): array for key, array in arrays.items()})
    return path


def test_published_version_reproduces_its_answers(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "registry", "identity", identity(), tmp_path)
    registry = Registry(tmp_path / "registry")
    with OnnxSession(registry.model_file(manifest), manifest.artifact.options) as session:
        replay(session, registry.blob(manifest.golden.blob), manifest.golden)


@pytest.mark.parametrize(("offset", "reproduces"), [(0.0, True), (0.9e-3, True), (1.1e-3, False), (np.nan, False)])
def test_tolerance_decides(tmp_path: Path, offset: float, reproduces: bool) -> None:
    path = stored(tmp_path, in__0__x=np.zeros((1, 4), np.float32), out__0__y=np.zeros((1, 4), np.float32))
    session = FakeSession(lambda inputs: {"y": inputs["x"] + np.float32(offset)})
    if reproduces:
        replay(session, path, golden())
    else:
        with pytest.raises(ArtifactError, match="golden input 0: output 'y' differs by up to"):
            replay(session, path, golden())


def test_answer_that_was_nan_when_published_may_still_be(tmp_path: Path) -> None:
    nan = np.full(2, np.nan, np.float32)
    path = stored(tmp_path, in__0__x=nan, out__0__y=nan)
    replay(FakeSession(lambda inputs: {"y": inputs["x"]}), path, golden())


def test_integers_must_be_equal_whatever_the_tolerance(tmp_path: Path) -> None:
    path = stored(tmp_path, in__0__x=np.zeros(1), out__0__label=np.array([3, 4]))
    replay(FakeSession(lambda _: {"label": np.array([3, 4])}), path, golden(atol=10))
    with pytest.raises(ArtifactError, match="differs in 1 of 2 values"):
        replay(FakeSession(lambda _: {"label": np.array([3, 5])}), path, golden(atol=10))


def test_strings_are_fed_as_objects(tmp_path: Path) -> None:
    path = stored(tmp_path, in__0__text=np.array(["a", "bc"]), out__0__text=np.array(["a", "bc"]))
    fed: list[np.dtype] = []

    def echo(inputs: Mapping[str, Array]) -> Arrays:
        fed.append(inputs["text"].dtype)
        return {"text": inputs["text"]}

    replay(FakeSession(echo), path, golden())
    assert fed == [np.dtype(object)]


def test_other_shape_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path, in__0__x=np.zeros(1), out__0__y=np.zeros((2, 3)))
    with pytest.raises(ArtifactError, match=r"is float64\[3, 2\], recorded was float64\[2, 3\]"):
        replay(FakeSession(lambda _: {"y": np.zeros((3, 2))}), path, golden())


def test_a_model_that_fails_on_a_golden_input_is_refused(tmp_path: Path) -> None:
    def fail(_: Mapping[str, Array]) -> Arrays:
        raise ExecutionError("bad node")

    path = stored(tmp_path, in__0__x=np.zeros(1), out__0__y=np.zeros(1))
    with pytest.raises(ArtifactError, match=r"golden input 0: the model fails on it: bad node; export"):
        replay(FakeSession(fail), path, golden())


def test_damaged_or_short_file_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, in__0__x=np.zeros(1), out__0__y=np.zeros(1))
    session = FakeSession(lambda _: {"y": np.zeros(1)})
    with pytest.raises(ArtifactError, match="has no answer to golden input 1"):
        replay(session, path, golden(count=2))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ArtifactError, match="not a golden file of 1 inputs"):
        replay(session, path, golden())
