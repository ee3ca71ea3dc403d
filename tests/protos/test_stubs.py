from pathlib import Path

from protos import generate


def test_the_committed_stubs_are_what_the_compiler_writes(tmp_path: Path) -> None:
    generate.generate(tmp_path)

    fresh = {path.name: path.read_text() for path in (tmp_path / "protos").iterdir()}
    committed = {path.name: path.read_text() for path in generate.FOLDER.glob("*_pb2*.py*")}

    assert fresh == committed
