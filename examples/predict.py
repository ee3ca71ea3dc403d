"""Call the two demo models, served by `optimize serve`, with Proveserve's client.

    python examples/predict.py digits
    python examples/predict.py sentiment "what a lovely day" "a dull and boring waste of time"

The first makes one blocking call with several rows, the second one call per sentence, all at once from an event loop.
"""

import argparse
import asyncio
from pathlib import Path

import grpc
import numpy as np
import pyarrow.parquet as pq

from serve.client import AsyncClient, Client

IMAGES = Path(__file__).parent / "data" / "digits.parquet"
SENTENCES = ["what a lovely day", "a dull and boring waste of time"]
TIMEOUT_S = 5.0
FEELINGS = ("negative", "positive")


def digits(address: str, rows: int) -> None:
    """Print the digits that the model reads in the first images of a file."""
    images = pq.read_table(IMAGES).column("image").slice(0, rows).to_pylist()
    with Client(address) as client:
        prediction = client.infer("digits", {"image": np.array(images, np.float32)}, timeout_s=TIMEOUT_S)
    print("digits:", *prediction.outputs["output"].argmax(axis=1))
    print(f"version {prediction.version}, {prediction.parameters['execution_us']} us in the model")


async def sentiment(address: str, sentences: list[str]) -> None:
    """Print how each sentence sounds; the service batches calls that arrive together."""
    async with AsyncClient(address) as client:
        calls = [
            client.infer("sentiment", {"text": np.array([one], dtype=object)}, timeout_s=TIMEOUT_S) for one in sentences
        ]
        predictions = await asyncio.gather(*calls)
    for sentence, prediction in zip(sentences, predictions, strict=True):
        print(f"{FEELINGS[prediction.outputs['logits'].argmax()]}: {sentence}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("digits", "sentiment"))
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="the sentences for `sentiment`")
    parser.add_argument("--address", default="127.0.0.1:9000", help="where `optimize serve` says READY")
    parser.add_argument("--rows", type=int, default=8, help="how many images to send to `digits`")
    asked = parser.parse_args()
    try:
        if asked.model == "digits":
            digits(asked.address, asked.rows)
        else:
            asyncio.run(sentiment(asked.address, asked.sentences))
    except grpc.RpcError as error:
        raise SystemExit(f"{error.code().name}: {error.details()}") from None


if __name__ == "__main__":
    main()
