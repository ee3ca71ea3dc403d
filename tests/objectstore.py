"""An S3 server over HTTP in a process of its own, with faults on demand.

The server is moto's. It does one request at a time, since moto checks a condition and writes in two steps, where S3 takes one.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
CONTROL = "/control"
START_TIMEOUT_S = 60.0

Environment = dict[str, Any]
Application = Callable[[Environment, Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Store:
    """The server's address, and one bucket of it."""

    endpoint: str
    bucket: str

    @property
    def url(self) -> str:
        """A registry below a prefix of the bucket."""
        return f"s3://{self.bucket}/team/models"

    def environment(self, cache: Path) -> dict[str, str]:
        """What a process needs to know to use the store, and nothing that this machine says of other stores."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
            "NO_PROXY": "127.0.0.1",
            "XDG_CACHE_HOME": str(cache),
        }

    def fail(self, kind: str, method: str = "PUT", path: str = "", times: int = 1) -> None:
        """Let the next requests to this bucket of that method, whose path has that pattern, meet a fault; see `Faults`."""
        call(f"{self.endpoint}{CONTROL}", json.dumps([kind, method, f"/{self.bucket}.*{path}", times]).encode())

    def requests(self, pattern: str) -> list[str]:
        """`METHOD path` of every request so far that has that pattern and went to this bucket."""
        seen = json.loads(call(f"{self.endpoint}{CONTROL}"))
        return [line for line in seen if f"/{self.bucket}" in line and re.search(pattern, line)]


class Faults:
    """The server's application, which notes each request, and breaks some.

    Kinds: `lost` does what it is asked and then answers 500; `conflict` answers 409 instead; `denied` answers 403 instead; `deaf`
    forgets the condition of a PUT.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._seen: list[str] = []
        self._armed: list[list[Any]] = []
        self._one_at_a_time = threading.Lock()

    def __call__(self, environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        with self._one_at_a_time:
            return list(self._answer(environ, start_response))

    def _answer(self, environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == CONTROL:
            return self._control(environ, start_response)
        self._seen.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        match self._fault(environ):
            case "lost":
                b"".join(self._application(environ, lambda *_: None))
                return _error(start_response, "500 Internal Server Error", "InternalError")
            case "conflict":
                return _error(start_response, "409 Conflict", "ConditionalRequestConflict")
            case "denied":
                return _error(start_response, "403 Forbidden", "AccessDenied")
            case "deaf":
                environ.pop("HTTP_IF_NONE_MATCH", None)
        return self._application(environ, start_response)

    def _control(self, environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            self._armed.append(json.loads(environ["wsgi.input"].read()))
        body = json.dumps(self._seen).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _fault(self, environ: Environment) -> str | None:
        for fault in self._armed:
            kind, method, path, times = fault
            if times and environ["REQUEST_METHOD"] == method and re.search(path, environ["PATH_INFO"]):
                fault[3] -= 1
                return str(kind)
        return None


def _error(start_response: Callable[..., Any], status: str, code: str) -> Iterable[bytes]:
    body = f"<Error><Code>{code}</Code><Message>as the test asked</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def call(url: str, data: bytes | None = None, method: str | None = None) -> bytes:
    """Ask the server for what needs no credentials."""
    request = urllib.request.Request(url, data, {"Content-Type": "text/plain"}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        body: bytes = answer.read()
    return body


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The address of a new server, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.objectstore"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate(timeout=START_TIMEOUT_S)


@contextlib.contextmanager
def bucket(endpoint: str, cache: Path) -> Iterator[Store]:
    """A new bucket, which this process finds by its environment until the block ends."""
    store = Store(endpoint, f"bucket-{uuid.uuid4().hex}")
    call(f"{endpoint}/{store.bucket}", method="PUT")
    with mock.patch.dict(os.environ, store.environment(cache)):
        os.environ.pop("AWS_PROFILE", None)
        yield store


def _main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _main()
