"""What a program needs to call a service: a client, its connection, retries, and the codec; without Ray and without a runtime.

from serve.client import Client

with Client("127.0.0.1:9000") as client:
    answer = client.infer("digits", {"image": pixels})
"""

from serve.client.clients import AsyncClient, Client, Prediction
from serve.client.connection import Connection

__all__ = ["AsyncClient", "Client", "Connection", "Prediction"]
