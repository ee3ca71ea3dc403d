import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from optimize.errors import ArtifactError, SourceError
from optimize.manifest import Preprocessing
from optimize.registry import Registry
from optimize.source import preprocess_package
from tests import preprocessing


def published(folder: Path, code: dict[str, str] | None = None) -> tuple[Preprocessing, Registry]:
    registry = Registry(folder / "registry")
    record = preprocess_package.published(preprocessing.SPEC, *preprocessing.taken(folder, code), registry)
    shutil.rmtree(folder / "project")
    shutil.rmtree(folder / "taken")
    return record, registry


def texts(*values: str) -> dict[str, np.ndarray]:
    return {"text": np.array(values, dtype=object)}


def test_code_runs_from_the_registry_alone_with_what_it_imports(tmp_path: Path) -> None:
    record, registry = published(tmp_path)
    assert [blob.name for blob in record.files] == ["alphabet.py", "lengths.py"]
    assert [(spec.name, spec.dtype, spec.shape) for spec in record.columns] == [("text", "object", ("batch",))]
    with preprocess_package.restored(record, registry) as preprocess:
        found = preprocess(texts("one", "two words"))
    np.testing.assert_array_equal(found["x"], [preprocessing.counted(text) for text in ("one", "two words")])


def test_two_versions_of_a_helper_coexist(tmp_path: Path) -> None:
    other = preprocessing.CODE | {"alphabet.py": 'VOWELS = set("o")\n'}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = published(tmp_path / "a"), published(tmp_path / "b", other)
    before = list(sys.path)
    with preprocess_package.restored(*first) as one, preprocess_package.restored(*second) as two:
        assert [int(counted(texts("foe"))["x"][0, 1]) for counted in (one, two)] == [2, 1]
    assert sys.path == before
    assert "alphabet" not in sys.modules


COUNTED = preprocessing.CODE["lengths.py"]
READS_A_FILE = "from pathlib import Path\nVOWELS = set((Path(__file__).parent / 'vowels.txt').read_text())\n"
IMPORTS_LATE = COUNTED.replace("from alphabet import VOWELS\n", "").replace(
    "    rows =", "    from alphabet import VOWELS\n    rows ="
)
DRAWS = COUNTED.replace("1] for t", "__import__('random').random()] for t")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"alphabet.py": READS_A_FILE, "vowels.txt": "aeiou"}, r"does not run from its code alone.*FileNotFoundError"),
        ({"lengths.py": IMPORTS_LATE}, r"does not run from its code alone.*No module named 'alphabet'"),
        ({"lengths.py": DRAWS}, r"makes different inputs of the same columns"),
    ],
)
def test_code_that_cannot_be_taken_along_is_refused(tmp_path: Path, change: dict[str, str], cause: str) -> None:
    with pytest.raises(SourceError, match=cause):
        preprocessing.taken(tmp_path, preprocessing.CODE | change)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ('VOWELS = set("xyz")\n', r"golden input 1: output 'x' differs"),
        ("import no_such_package\n", r"cannot be loaded here: .*No module named 'no_such_package'"),
    ],
)
def test_code_that_does_not_do_here_what_it_did_is_refused(tmp_path: Path, code: str, cause: str) -> None:
    record, registry = published(tmp_path)
    changed = tmp_path / "alphabet.py"
    changed.write_text(code)
    blobs = tuple(registry.put(changed, blob.name) if blob.name == "alphabet.py" else blob for blob in record.files)
    with (
        pytest.raises(ArtifactError, match=cause),
        preprocess_package.restored(msgspec.structs.replace(record, files=blobs), registry),
    ):
        pass


def test_a_file_that_would_land_elsewhere_is_refused(tmp_path: Path) -> None:
    record, registry = published(tmp_path)
    blobs = tuple(msgspec.structs.replace(blob, name=f"../{blob.name}") for blob in record.files)
    with (
        pytest.raises(ArtifactError, match="is outside of the version's code folder"),
        preprocess_package.restored(msgspec.structs.replace(record, files=blobs), registry),
    ):
        pass


def test_code_that_a_version_needs_is_not_collected(tmp_path: Path) -> None:
    manifest = preprocessing.publish(tmp_path / "registry", "counts", 2.0, tmp_path)
    registry = Registry(tmp_path / "registry")
    assert registry.collect(older_than_s=-60.0) == []
    assert manifest.preprocessing is not None
    with preprocess_package.restored(manifest.preprocessing, registry) as preprocess:
        assert preprocess(texts("a"))["x"].tolist() == [preprocessing.counted("a")]
