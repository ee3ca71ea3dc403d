"""Engines of real networks for four generations of GPUs, and the graphs they are built from against FP32 on the CPU.

No GPU is needed: tensorrt-rtx builds without one, and the typed graphs, which state the precision of every value, run in
onnxruntime. What an engine answers on its GPU is for `optimize validate` to judge there.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from optimize import budgets
from optimize.arrays import Arrays
from optimize.budgets import ModelBudgets
from optimize.convert import baseline
from optimize.convert.baseline import BASELINE
from optimize.manifest import Signature
from optimize.recipes import fp16, int8_static, tensorrt
from optimize.source.samples import Batch
from optimize.source.split_file import store_split
from tests import exporting
from tests.optimize.recipes import pretrained
from tests.optimize.recipes.models import run

pytest.importorskip("tensorrt_rtx", reason="the extra `rtx` is not installed", exc_type=ImportError)

CAPABILITIES = ("80", "86", "89", "120")
PRECISIONS = ("fp32", "fp16", "int8-static")
EXAMPLES = budgets.load(pretrained.ROOT / "budgets.toml").models


class Network(NamedTuple):
    """How a network is exported, samples to calibrate on, and others to compare answers on."""

    budgets: ModelBudgets
    calibration: list[Arrays]
    unseen: list[Arrays]


class Exported(NamedTuple):
    baseline: Path
    signature: Signature


def _digits() -> Network:
    return Network(EXAMPLES["digits"], pretrained.digits("calibration"), pretrained.digits("selection")[:2])


def _sentiment() -> Network:
    source = f"{pretrained.__name__}:sentiment"
    sentences = pretrained.sentences(150, 10)
    message = msgspec.structs.replace(EXAMPLES["sentiment"], source=source, preprocess=None)
    # Every third batch is kept for the comparison, so that both hold short sentences and long ones.
    return Network(message, [batch for i, batch in enumerate(sentences) if i % 3], sentences[1::6])


def _efficientnet() -> Network:
    message = {
        "source": f"{pretrained.__name__}:efficientnet",
        "inputs": {"image": {"dtype": "float32", "shape": ["batch", 3, pretrained.PIXELS, pretrained.PIXELS]}},
        "dims": {"batch": {"min": 1, "opt": 4, "max": 16}},
        "size": {"mb": 20.0},
    }
    return Network(msgspec.convert(message, ModelBudgets), pretrained.crops(104, 8), pretrained.crops(16, 8, seed=1))


NETWORKS: dict[str, Callable[[], Network]] = {
    "digits": _digits,
    "sentiment": _sentiment,
    "efficientnet-lite0": _efficientnet,
}


@pytest.fixture(scope="module")
def network() -> Callable[[str], Network]:
    return cache(lambda name: NETWORKS[name]())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, network) -> Callable[[str], Exported]:
    """The baseline graph of a network, as an export makes it: held against PyTorch at the smallest, usual and largest sizes."""

    def convert(name: str) -> Exported:
        folder = tmp_path_factory.mktemp(name)
        store_split(folder / "calibration.npz", [Batch(inputs, None) for inputs in network(name).calibration[:2]])
        conversion = baseline.convert(network(name).budgets, pretrained.ROOT, folder, folder)
        return Exported(folder / BASELINE, conversion.signature)

    return cache(convert)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory, network, exported) -> Callable[[str, str], Path]:
    """The graph that states a precision the way TensorRT wants it."""

    def build(name: str, precision: str) -> Path:
        folder, source, samples = tmp_path_factory.mktemp(name), exported(name).baseline, network(name).calibration
        if precision == "fp16":
            return fp16.build(source, folder, samples[:4]).files[0]
        if precision == "int8-static":
            return int8_static.build(source, folder, samples, symmetric=True).files[0]
        return source

    return cache(build)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_one_engine_runs_on_four_generations_of_gpus(typed, exported, tmp_path, name, precision) -> None:
    graph = typed(name, precision)
    built = tensorrt.build(graph, tmp_path, exported(name).signature, compute_capabilities=CAPABILITIES)
    assert (built.changed > 0) == (precision != "fp32")
    # At its smallest an engine holds every weight in 8 bits.
    share = 0.9 if precision == "fp32" else 0.25
    assert built.files[0].stat().st_size > share * exported(name).baseline.stat().st_size


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_digits_for_each_generation_alone(typed, exported, tmp_path, capability, precision) -> None:
    graph = typed("digits", precision)
    built = tensorrt.build(graph, tmp_path, exported("digits").signature, compute_capabilities=[capability])
    assert built.files[0].stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["sentiment", "efficientnet-lite0"])
def test_each_generation_alone(typed, exported, tmp_path, name, capability, precision) -> None:
    graph = typed(name, precision)
    built = tensorrt.build(graph, tmp_path, exported(name).signature, compute_capabilities=[capability])
    assert built.files[0].stat().st_size > 1_000_000


# Root mean square of the difference to FP32 over that of FP32's answers. Plain int8-static is known to be rough on MiniLM, and
# costs it its place in an export; a graph with a wrong scale would be off by about as much as the answers themselves.
TOLERANCE = {
    ("digits", "fp16"): 0.001,
    ("digits", "int8-static"): 0.02,
    ("sentiment", "fp16"): 0.01,
    ("sentiment", "int8-static"): 0.4,
    ("efficientnet-lite0", "fp16"): 0.01,
    ("efficientnet-lite0", "int8-static"): 0.15,
}


@pytest.mark.parametrize(("name", "precision"), TOLERANCE)
def test_typed_graphs_answer_as_fp32_does(network, exported, typed, name, precision) -> None:
    wanted, found = (
        np.concatenate([run(graph, inputs)[0] for inputs in network(name).unseen])
        for graph in (exported(name).baseline, typed(name, precision))
    )
    assert found.dtype == wanted.dtype
    difference = np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))
    assert 0 < difference < TOLERANCE[name, precision]
    agreement = np.mean(found.argmax(axis=1) == wanted.argmax(axis=1))
    assert agreement >= (0.95 if precision == "fp16" else 0.75)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_of_the_pretrained_network_knows_a_flower(typed, precision) -> None:
    """The class is ImageNet's 985, daisy, the nearest that it has to a dahlia; so the weights are really those of the network."""
    (logits,) = run(typed("efficientnet-lite0", precision), {"image": pretrained.flower()})
    assert logits.argmax() == 985


def test_the_command_builds_them_and_does_not_try_what_tensorrt_cannot(tmp_path: Path) -> None:
    budget = exporting.project(
        tmp_path,
        targets=["tensorrt-rtx"],
        precisions=[*PRECISIONS, "int8-dynamic"],
        compute_capabilities=list(CAPABILITIES),
    )
    done = exporting.export(budget, "--build-only")
    assert done.code == 0
    assert {name: found["status"] for name, found in done.candidates.items()} == {
        "fp32@tensorrt-rtx": "built",
        "fp16@tensorrt-rtx": "built",
        "int8-static@tensorrt-rtx": "built",
        "int8-dynamic@tensorrt-rtx": "n/a",
    }
    assert "DynamicQuantizeLinear" in done.candidates["int8-dynamic@tensorrt-rtx"]["reason"]
