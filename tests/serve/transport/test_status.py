import pytest
from grpc import StatusCode

from optimize.errors import ArtifactError, InputError
from optimize.runtime.batching import rejections
from serve.metadata_keys import PUSHBACK_KEY
from serve.models.refused import Refused
from serve.transport.status import status_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("input 'x' is missing"), StatusCode.INVALID_ARGUMENT),
        (Refused(StatusCode.NOT_FOUND, "no such model"), StatusCode.NOT_FOUND),
        (rejections.QueueFull("full", 0.25), StatusCode.RESOURCE_EXHAUSTED),
        (rejections.DeadlineExceeded("late"), StatusCode.DEADLINE_EXCEEDED),
        (TimeoutError(), StatusCode.DEADLINE_EXCEEDED),
        (rejections.Closed(), StatusCode.UNAVAILABLE),
        (ArtifactError("/srv/registry/blobs is gone"), StatusCode.INTERNAL),
        (RuntimeError("/usr/lib/secret.py line 3"), StatusCode.INTERNAL),
    ],
)
def test_each_failure_has_its_code(error: Exception, code: StatusCode) -> None:
    assert status_of(error).code is code


def test_an_unexpected_error_reveals_nothing() -> None:
    assert "/" not in status_of(RuntimeError("/usr/lib/secret.py line 3")).text


def test_a_full_queue_says_when_to_retry() -> None:
    found = status_of(rejections.QueueFull("full", 0.25))
    assert found.trailing_metadata == ((PUSHBACK_KEY, "250"),)
    assert status_of(rejections.QueueFull("full", 0.0)).trailing_metadata == ((PUSHBACK_KEY, "1"),)
    assert status_of(InputError("x")).trailing_metadata == ()
