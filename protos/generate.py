"""Write the Python stubs of every .proto in this folder: ``python -m protos.generate``."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def generate(target: Path) -> None:
    """Write `protos/NAME_pb2.py`, `NAME_pb2.pyi` and `NAME_pb2_grpc.py` below `target`.

    Raises:
        RuntimeError: protoc refuses a file; it has printed where and why.
    """
    from grpc_tools import protoc  # noqa: PLC0415 - a tool of development, not needed to use the stubs

    files = sorted(str(path.relative_to(FOLDER.parent)) for path in FOLDER.glob("*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"--proto_path={FOLDER.parent}", *outputs, *files]) != 0:
        raise RuntimeError(f"protoc refused one of {', '.join(files)}")


if __name__ == "__main__":
    generate(FOLDER.parent)
    sys.stdout.write("stubs are fresh\n")
