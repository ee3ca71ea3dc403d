"""Publishers in processes of their own, and what must hold of a registry whatever they did to it."""

import subprocess
import sys
from pathlib import Path

from optimize.manifest import Blob
from optimize.registry import Registry
from optimize.registry.store import blob_key

ROOT = Path(__file__).parents[3]
# Publishes version after version, each with new bytes, until it is killed or told how many.
PUBLISHER = """
import sys
from pathlib import Path
import msgspec
from optimize.registry import Registry
folder, count, size = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
registry, file = Registry(sys.argv[1]), folder / "bytes"
manifest = registry.load("identity", 1)
for number in range(count):
    file.write_bytes(f"{folder.name} {number}".encode() * (size // 16))
    artifact = msgspec.structs.replace(manifest.artifact, files=(registry.put(file, "model.onnx"),))
    print(registry.publish(msgspec.structs.replace(manifest, artifact=artifact)).version, flush=True)
"""


def start_publisher(registry: Registry, folder: Path, count: int, size_bytes: int = 8_000_000) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", PUBLISHER, registry.place, str(folder), str(count), str(size_bytes)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def check_served(registry: Registry) -> None:
    """Everything that is published can be served."""
    versions = registry.versions("identity")
    for version in versions:
        manifest = registry.load("identity", version)
        assert manifest.version == version
        assert registry.model_file(manifest).exists()
    assert registry.current("identity") in versions


def overwrite(registry: Registry, key: str, data: bytes) -> None:
    """Change a file behind the registry's back."""
    registry._store.write(key, data)


def overwrite_blob(registry: Registry, blob: Blob, data: bytes) -> None:
    overwrite(registry, blob_key(blob.digest), data)


def delete_blob(registry: Registry, blob: Blob) -> None:
    registry._store.delete(blob_key(blob.digest))
