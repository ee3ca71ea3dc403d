"""A model with a preprocessing of its own code in two files, published with it: the lengths of texts, scaled."""

from pathlib import Path

import msgspec
import numpy as np

from optimize.manifest import Manifest
from optimize.registry import Registry
from optimize.source import preprocess_package
from optimize.source.samples import Batch
from optimize.source.split_file import store_split
from tests import published

SPEC = "lengths.py:counted"
CODE = {
    "lengths.py": '''
import numpy as np

from alphabet import VOWELS


def counted(columns):
    """text -> x [batch, 4]: characters, vowels, spaces, 1"""
    if any(text == "refuse me" for text in columns["text"]):
        raise ValueError("a text that nobody can count")
    rows = [[len(t), sum(c in VOWELS for c in t), t.count(" "), 1] for t in columns["text"]]
    return {"x": np.array(rows, np.float32)}
''',
    "alphabet.py": 'VOWELS = set("aeiou")\n',
}
TEXTS = ["", "a", "two words", "three more words", "x" * 40, "aeiou", " ", "naïve"]


def counted(text: str) -> list[float]:
    return [len(text), sum(letter in "aeiou" for letter in text), text.count(" "), 1]


def project(folder: Path, code: dict[str, str] | None = None) -> Path:
    """The user's folder, with the code of the preprocessing."""
    folder.mkdir(exist_ok=True)
    for name, text in (code or CODE).items():
        (folder / name).write_text(text)
    return folder


def raw(folder: Path) -> Path:
    """The raw requests that export keeps."""
    store_split(folder / "raw.npz", [Batch({"text": np.array([text], dtype=object)}, None) for text in TEXTS])
    return folder / "raw.npz"


def taken(folder: Path, code: dict[str, str] | None = None) -> tuple[preprocess_package.Taken, Path]:
    """What is taken along of the code, and the folder that it was taken to."""
    target = folder / "taken"
    target.mkdir()
    return preprocess_package.take(SPEC, project(folder / "project", code), raw(folder), target), target


def publish(root: Path, name: str, factor: float, folder: Path, code: dict[str, str] | None = None) -> Manifest:
    """Publish `factor` times the counts of a text as the next version of `name`."""
    registry = Registry(root)
    preprocessing = preprocess_package.published(SPEC, *taken(folder, code), registry)
    plain = published.publish(root, f"{name}-plain", published.scale(factor), folder)
    return registry.publish(msgspec.structs.replace(plain, model=name, preprocessing=preprocessing))
