import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from optimize.budgets import Dim
from optimize.errors import ArtifactError
from optimize.manifest import Blob, Manifest, Signature, TensorSpec, decode, digest_of, encode, json_schema
from optimize.registry import Registry
from tests.published import identity, publish

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "docs" / "manifest.schema.json"
HEAVY = {"numpy", "torch", "onnx", "onnxruntime", "grpc", "ray", "locust", "scipy"}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return publish(tmp_path / "registry", "identity", identity(), tmp_path)


def test_json_round_trip(manifest: Manifest) -> None:
    assert decode(encode(manifest), "manifest.json") == manifest


def test_manifest_of_before_calls_its_candidates_trials(manifest: Manifest) -> None:
    fields = json.loads(encode(manifest))
    fields["trials"] = fields.pop("candidates")
    assert decode(json.dumps(fields).encode(), "manifest.json") == manifest


def test_published_schema_is_fresh() -> None:
    assert SCHEMA.read_bytes() == json_schema(), "run `make schema`"


def test_published_manifest_fits_the_published_schema(manifest: Manifest, tmp_path: Path) -> None:
    schema = json.loads(SCHEMA.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    path = Path(Registry(tmp_path / "registry").manifest_path("identity", manifest.version))
    jsonschema.validate(json.loads(path.read_bytes()), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"Invalid enum value 2 - at `\$\.schema`"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"source_digest": "abc"}, r"matching regex .* at `\$\.source_digest`"),
        ({"golden": None}, r"Expected `object`, got `null` - at `\$\.golden`"),
    ],
)
def test_text_of_another_schema_is_refused_by_schema_and_by_decoder(
    manifest: Manifest, change: dict[str, object], message: str
) -> None:
    changed = json.loads(encode(manifest)) | change
    with pytest.raises(ArtifactError, match=f"elsewhere: not a manifest of schema 1 .*{message}"):
        decode(json.dumps(changed).encode(), "elsewhere")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, json.loads(SCHEMA.read_bytes()))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_damaged_text_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="publish the version again with `optimize export`"):
        decode(data, "manifest.json")


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert digest_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_records_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Blob("a", "0" * 64, 1).size_bytes = 2  # type: ignore[misc] # that is the point
    assert msgspec.structs.replace(Blob("a", "0" * 64, 1), size_bytes=2).size_bytes == 2


X = TensorSpec("x", "float32", ("batch", 4))


@pytest.mark.parametrize(
    ("inputs", "outputs", "batchable", "max_batch"),
    [
        ((X,), (TensorSpec("y", "float32", (3, "batch")),), True, 8),
        ((X,), (TensorSpec("y", "float32", ("batch",)), TensorSpec("z", "float32", (3,))), False, 1),
        ((TensorSpec("x", "float32", (4,)),), (TensorSpec("y", "float32", ("batch",)),), False, 1),
        ((X, TensorSpec("scale", "float32", ())), (TensorSpec("y", "float32", ("batch",)),), True, 8),
    ],
)
def test_requests_share_a_batch_only_where_an_input_and_every_output_has_the_axis(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], batchable: bool, max_batch: int
) -> None:
    signature = Signature(inputs, outputs, {"batch": Dim(1, 1, 8)})
    assert (signature.batchable, signature.max_batch) == (batchable, max_batch)


def loaded_by(modules: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after importing some."""
    code = f"import sys, {modules}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["errors", "budgets", "manifest", "tournament.choice"])
def test_records_load_no_heavy_library(module: str) -> None:
    assert not loaded_by(f"optimize.{module}") & HEAVY


def test_runtime_loads_onnxruntime_and_numpy_alone() -> None:
    files = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "optimize" / "runtime").rglob("[!_]*.py")]
    modules = [".".join(file.parts) for file in files]
    assert len(modules) > 3
    loaded = loaded_by(", ".join(modules))
    assert not loaded & (HEAVY - {"numpy", "onnxruntime"})
    assert loaded >= {"numpy", "onnxruntime"}
