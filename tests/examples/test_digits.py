import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from optimize.manifest import Signature, TensorSpec
from optimize.source.imports import attribute
from optimize.source.samples import SPLITS, Batch, check_disjoint
from tests import exporting

EXAMPLES = Path(__file__).parents[2] / "examples"
SIGNATURE = Signature((TensorSpec("image", "float32", ("batch", 1, 8, 8)),), ())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example without its weights, so that it trains."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "examples").mkdir()
    shutil.copyfile(EXAMPLES / "digits.py", folder / "examples" / "digits.py")
    return folder


@pytest.fixture(scope="module")
def digits(project: Path) -> Iterator[ModuleType]:
    import sys

    function = attribute("examples/digits.py:train", project)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that share a busy core wait for one another
    yield sys.modules[function.__module__]
    torch.set_num_threads(threads)


def batches(digits: ModuleType, split: str) -> list[Batch]:
    return [Batch(inputs, labels) for inputs, labels in digits.samples(split)]


def test_network_trains_on_rows_that_are_in_no_split(digits: ModuleType) -> None:
    network = digits.model().eval()
    for split in SPLITS:
        found = batches(digits, split)
        images = torch.from_numpy(np.concatenate([batch.inputs["image"] for batch in found]))
        labels = np.concatenate([batch.labels for batch in found])
        with torch.inference_mode():
            right = network(images).argmax(dim=1).numpy() == labels
        assert right.mean() > 0.9
    splits = {split: batches(digits, split) for split in SPLITS}
    images, labels = digits._rows(0, digits.TRAIN_ROWS)
    check_disjoint(SIGNATURE, splits)
    for split in SPLITS:
        check_disjoint(SIGNATURE, {"calibration": [Batch({"image": images}, labels)], "selection": splits[split]})


def test_training_repeats_itself(digits: ModuleType) -> None:
    images = torch.from_numpy(digits._rows(*digits.SPLITS["selection"])[0])
    first, again = (network.eval()(images).argmax(dim=1) for network in (digits.model(), digits.train()))
    assert (first == again).float().mean() > 0.99


def test_splits_are_large_enough_to_judge_on(digits: ModuleType) -> None:
    rows = {split: sum(len(batch.labels) for batch in batches(digits, split)) for split in SPLITS}
    assert rows == {"calibration": 150, "selection": 500, "confirmation": 500}
    (first, *_) = batches(digits, "selection")
    assert (first.inputs["image"].dtype, first.inputs["image"].shape[1:]) == (np.float32, (1, 8, 8))
    assert 0 <= first.inputs["image"].min() <= first.inputs["image"].max() <= 1


def test_weights_are_trained_once_and_kept(digits: ModuleType) -> None:
    first = digits.model().state_dict()
    assert digits.WEIGHTS.exists()
    again = digits.model().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert [path.name for path in digits.WEIGHTS.parent.iterdir()] == ["digits.pt"]


def test_quick_export_of_the_example(project: Path, digits: ModuleType) -> None:
    digits.model()
    shutil.copy(EXAMPLES.parent / "budgets.toml", project)
    found = exporting.export(project / "budgets.toml", "--quick", "--model", "digits")
    assert found.code == 3, found.stderr
    statuses = {name: candidate["status"] for name, candidate in found.candidates.items()}
    assert statuses.keys() == {"source@pytorch", "int8-static@onnxruntime-cpu"}
    assert statuses["int8-static@onnxruntime-cpu"] in ("inconclusive", "screened-out")
