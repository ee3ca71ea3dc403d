import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimize.budgets import InputSpec, ModelBudgets
from optimize.errors import ExecutionError
from optimize.source.model import TorchModel, load_torch
from tests.optimize.source import modules
from tests.optimize.source.modules import Scaled

HERE = Path(__file__).parent
X = {"x": InputSpec("float32", ("batch", 4))}
ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def loaded(name: str, **options: Any) -> TorchModel:
    return load_torch(ModelBudgets(source=f"modules.py:{name}", **({"inputs": X} | options)), HERE, threads=1)


def wrapped(module: torch.nn.Module, base: Path) -> TorchModel:
    return TorchModel(module, ("x",), (), base, threads=1)


def test_module_is_put_into_evaluation_mode() -> None:
    model = loaded("Training")
    np.testing.assert_array_equal(model.run({"x": ROWS})["output"], model.run({"x": ROWS})["output"])


def test_only_the_requested_outputs_are_returned() -> None:
    model = loaded("DictOutputs")
    assert list(model.run({"x": ROWS})) == ["logits", "probabilities"]
    assert list(model.run({"x": ROWS}, ["probabilities"])) == ["probabilities"]


def test_source_may_be_a_module_instead_of_a_factory() -> None:
    inputs = {"image": X["x"], "scale": InputSpec("float32", ())}
    found = loaded("instance", inputs=inputs).run({"image": ROWS, "scale": np.array(2.0, np.float32)})
    once = loaded("instance", inputs=inputs).run({"image": ROWS, "scale": np.array(1.0, np.float32)})
    np.testing.assert_allclose(found["output"], 2 * once["output"], rtol=1e-6)


@pytest.mark.parametrize(("name", "inputs"), [("AnswersNone", {"x": ROWS}), ("TwoOutputs", {"x": ROWS[:, :3]})])
def test_a_module_that_fails_raises_the_error_of_every_session(name: str, inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(ExecutionError):
        loaded(name).run(inputs)


def test_array_that_is_not_contiguous_goes_in() -> None:
    model = loaded("TwoOutputs")
    wide = np.repeat(ROWS, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(model.run({"x": wide})["output_0"], model.run({"x": ROWS})["output_0"])


def test_requested_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        load_torch(ModelBudgets(source="modules.py:TwoOutputs", inputs=X), HERE, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def scaled(scale: float = 1.0, sizes: tuple[int, ...] = (1, 2), shift: float = 0.0, weight: float = 0.0) -> Scaled:
    module = Scaled(scale, list(sizes), shift)
    with torch.no_grad():
        module.linear.weight[0, 0] += weight
    return module


def test_digest_repeats_itself(tmp_path: Path) -> None:
    assert wrapped(scaled(), tmp_path).digest() == wrapped(scaled(), tmp_path).digest()


@pytest.mark.parametrize("change", [{"scale": 2.0}, {"sizes": (1, 3)}, {"shift": 0.5}, {"weight": 1e-6}])
def test_digest_covers_what_the_factory_may_have_read(tmp_path: Path, change: dict[str, Any]) -> None:
    assert wrapped(scaled(**change), tmp_path).digest() != wrapped(scaled(), tmp_path).digest()


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda value: [{"table": np.array(value)}]])
def test_digest_covers_arrays_next_to_the_weights(tmp_path: Path, kind: Any) -> None:
    """As a factory leaves them that reads a table from a file and registers no buffer."""
    digests = []
    for value in ([1.0, 2.0], [1.0, 2.0], [1.0, 3.0], []):
        module = scaled()
        module.table = kind(value)
        digests.append(wrapped(module, tmp_path).digest())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_digest_does_not_depend_on_objects_that_have_no_value(tmp_path: Path) -> None:
    first, second = scaled(), scaled()
    first.handle, second.handle = object(), [os.environ, object()]
    assert wrapped(first, tmp_path).digest() == wrapped(second, tmp_path).digest()


def test_runtime_is_named() -> None:
    assert wrapped(modules.Identity(), HERE).runtime == "pytorch"
