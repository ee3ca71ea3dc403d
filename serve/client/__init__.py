"""What a program needs to call a service: clients, connections, retries and the codec, without Ray and without a runtime.

from serve.client import Client

with Client("127.0.0.1:9000") as client:
    answer = client.infer("digits", {"image": pixels})
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve.client.clients import AsyncClient, Client, Prediction
    from serve.client.connection import Connection

__all__ = ["AsyncClient", "Client", "Connection", "Prediction"]


def __getattr__(name: str) -> Any:
    """A name of this package, loaded with its first use: the codec alone then needs no grpc."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(
        importlib.import_module("serve.client.connection" if name == "Connection" else "serve.client.clients"), name
    )
