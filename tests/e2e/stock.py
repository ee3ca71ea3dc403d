"""Hold what a stock tritonclient is answered against what the published artefact answers in this process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from optimize.arrays import Arrays
from optimize.manifest import TensorSpec
from optimize.registry import Registry
from optimize.runtime.session import OnnxSession
from optimize.source import preprocess_package
from serve.client.codec import datatype_of

REPOSITORY = Path(__file__).parents[2]
WAYS = ("raw", "typed", "raw_async", "typed_async")


def check_answers(root: Path, model: str, address: str, requests: dict[str, Arrays], folder: Path) -> None:
    """Ask the service at `address` for each of `requests`, in every way that tritonclient has; columns to preprocess count as well."""
    metadata, answered = _asked(address, model, requests, folder)
    manifest = Registry(root).load(model)
    assert (metadata["name"], metadata["versions"]) == (model, [str(manifest.version)])
    assert metadata["inputs"] == [_described(spec) for spec in manifest.signature.inputs]
    assert metadata["outputs"] == [_described(spec) for spec in manifest.signature.outputs]
    wanted = {
        f"{request}/{way}/{output}": array
        for request, inputs in requests.items()
        for output, array in in_process(root, model, inputs).items()
        for way in WAYS
    }
    assert answered.keys() == wanted.keys()
    for key, array in wanted.items():
        assert answered[key].dtype == array.dtype, key
        np.testing.assert_allclose(answered[key], array, rtol=1e-5, atol=1e-6, err_msg=key)


def in_process(root: Path, model: str, inputs: Arrays) -> Arrays:
    """What the session answers without a service; columns that are none of the model's inputs are preprocessed first."""
    registry = Registry(root)
    manifest = registry.load(model)
    if not inputs.keys() & {spec.name for spec in manifest.signature.inputs}:
        assert manifest.preprocessing is not None
        with preprocess_package.restored(manifest.preprocessing, registry) as preprocess:
            inputs = preprocess(inputs)
    with OnnxSession(registry.model_file(manifest), manifest.artifact.options) as session:
        return session.run(inputs)


def _asked(address: str, model: str, requests: dict[str, Arrays], folder: Path) -> tuple[dict[str, Any], Arrays]:
    asking, answering = folder / f"{model}-requests.npz", folder / f"{model}-answers.npz"
    arrays = {f"{request}/{name}": array for request, inputs in requests.items() for name, array in inputs.items()}
    # Strings are kept at a fixed width, since objects would be pickled.
    np.savez(asking, **{key: array.astype("U") if array.dtype == object else array for key, array in arrays.items()})
    run = subprocess.run(
        [sys.executable, "-m", "tests.e2e.triton_arrays", address, model, str(asking), str(answering)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    with np.load(answering) as archive:
        return json.loads(run.stdout), {key: archive[key] for key in archive.files}


def _described(spec: TensorSpec) -> dict[str, Any]:
    shape = [str(-1 if isinstance(axis, str) else axis) for axis in spec.shape]  # JSON has 64-bit integers as text
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": shape}
