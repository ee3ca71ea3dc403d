import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from optimize.errors import SourceError
from optimize.source.imports import attribute

ROOT = Path(__file__).parents[3]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports is forgotten after it."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_attribute_of_a_file_next_to_the_budgets(tmp_path: Path) -> None:
    write(tmp_path, "deep/model.py", "class Net:\n    size = 3\n")
    assert attribute("deep/model.py:Net.size", tmp_path) == 3


def test_attribute_of_an_installed_module(tmp_path: Path) -> None:
    assert attribute("json.decoder:JSONDecoder", tmp_path).__name__ == "JSONDecoder"


def test_attribute_of_a_package_next_to_the_budgets(tmp_path: Path) -> None:
    write(tmp_path, "ownpkg/__init__.py", "")
    write(tmp_path, "ownpkg/models.py", "net = 'own'\n")
    assert attribute("ownpkg.models:net", tmp_path) == "own"


def test_file_imports_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "code/neighbour_of_model.py", "value = 5\n")
    write(tmp_path, "code/model.py", "from neighbour_of_model import value\n")
    assert attribute("code/model.py:value", tmp_path) == 5


def test_file_is_executed_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        "model.py",
        "import pathlib\nwith open('runs', 'a') as f: f.write('x')\na = b = 1\n".replace(
            "'runs'", repr(str(tmp_path / "runs"))
        ),
    )
    attribute("model.py:a", tmp_path)
    attribute("model.py:b", tmp_path)
    assert (tmp_path / "runs").read_text() == "x"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("model.py", "'model.py': wanted `file.py:attr` or `package.module:attr`"),
        ("model.py:", "'model.py:': wanted `file.py:attr` or `package.module:attr`"),
        (":net", "':net': wanted `file.py:attr` or `package.module:attr`"),
        ("missing.py:net", "missing.py:net: no file {folder}/missing.py; paths are relative to the budgets file"),
        ("model.py:net", "model.py:net: model.py has no attribute 'net'; it has Net, factory"),
        ("model.py:Net.size", "model.py:Net.size: model.py has no attribute 'Net.size'; it has Net, factory"),
        ("no_such_module:net", "no_such_module:net: no module 'no_such_module'; install it, or name a file as file.py:attr"),
        ("broken.py:net", "broken.py:net: importing broken.py failed: ZeroDivisionError: division by zero"),
        ("syntax.py:net", "syntax.py:net: importing syntax.py failed: SyntaxError: "),
        ("script.py:net", "script.py:net: importing script.py failed: SystemExit: 2"),
        ("needs.py:net", "needs.py:net: importing needs.py failed: ModuleNotFoundError: No module named 'absent'"),
    ],
)  # fmt: skip
def test_what_cannot_be_found_is_named(tmp_path: Path, spec: str, message: str) -> None:
    write(tmp_path, "model.py", "class Net: pass\n\ndef factory(): pass\n_private = 1\n")
    write(tmp_path, "broken.py", "1 / 0\n")
    write(tmp_path, "syntax.py", "def\n")
    write(tmp_path, "script.py", "raise SystemExit(2)\n")
    write(tmp_path, "needs.py", "import absent\n")
    with pytest.raises(SourceError) as caught:
        attribute(spec, tmp_path)
    assert str(caught.value).startswith(message.format(folder=tmp_path))


def code_digest_of(base: Path, spec: str) -> str:
    """The digest after importing one attribute, in a process that has imported nothing else of the user's."""
    code = (
        "import sys; from pathlib import Path; from optimize.source import imports;"
        "base = Path(sys.argv[1]); imports.attribute(sys.argv[2], base); print(imports.code_digest(base))"
    )
    command = [sys.executable, "-c", code, str(base), spec]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_code_digest_covers_what_the_source_imports_and_nothing_else(tmp_path: Path) -> None:
    base = tmp_path / "project"
    write(
        base,
        "model.py",
        "import sys\nsys.path.insert(0, 'lib')\nfrom inner import value\n".replace(
            "'lib'", repr(str(tmp_path / "lib"))
        ),
    )
    inner = write(tmp_path, "lib/inner.py", "value = 1\n")
    other = write(base, "unrelated.py", "value = 1\n")
    first = code_digest_of(base, "model.py:value")
    other.write_text("value = 2\n")
    assert code_digest_of(base, "model.py:value") == first
    inner.write_text("value = 2\n")
    assert code_digest_of(base, "model.py:value") != first
    inner.write_text("value = 1\n")
    assert code_digest_of(base, "model.py:value") == first
