import grpc
import pytest

from loadtest import service as asked
from optimize.errors import ProveserveError, UserError
from protos import open_inference_pb2 as pb
from serve.client.connection import Connection
from tests.loadtest import service


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:9000", "localhost:1", "[::1]:65535", "digits.example-1.org:80", "127.0.0.1:9000,127.0.0.1:9001"],
)
def test_addresses(target):
    assert asked.check_target(target) == target


@pytest.mark.parametrize(
    "target",
    [
        "",
        "127.0.0.1",
        ":9000",
        "localhost:0",
        "localhost:65536",
        "http://a:1",
        "::1:9000",
        "a:b",
        "127.0.0.1:1,",
        "a:1 b:2",
    ],
)
def test_what_is_no_address_is_refused(target):
    with pytest.raises(UserError, match="is not an address; wanted HOST:PORT"):
        asked.check_target(target)


def test_the_service_describes_its_model():
    with service.running() as toy:
        assert asked.describe(Connection(toy.target), service.MODEL) == service.METADATA


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (grpc.StatusCode.UNAVAILABLE, "no service answers at .* [(]UNAVAILABLE[)]; start one with `optimize serve`"),
        (grpc.StatusCode.UNIMPLEMENTED, "does not speak the Open Inference Protocol"),
        (grpc.StatusCode.INTERNAL, "does not describe model 'toy': INTERNAL: no metadata"),
    ],
)
def test_a_service_that_does_not_describe_it_breaks_the_run(code, message):
    with service.running(service.Faults(metadata=code)) as toy, pytest.raises(ProveserveError, match=message) as caught:
        asked.describe(Connection(toy.target), service.MODEL)
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
def test_a_missing_right_is_the_users_to_fix(code):
    refused = pytest.raises(UserError, match="does not let us ask for model 'toy': no metadata; give a token")
    with service.running(service.Faults(metadata=code)) as toy, refused:
        asked.describe(Connection(toy.target), service.MODEL)


def test_a_model_that_is_not_served_breaks_the_run():
    with service.running() as toy, pytest.raises(ProveserveError, match="has no model 'other'; publish it"):
        asked.describe(Connection(toy.target), "other")


def test_nothing_there_breaks_the_run():
    with service.running() as toy:
        target = toy.target
    with pytest.raises(ProveserveError, match="no service answers at"):
        asked.describe(Connection(target), service.MODEL)


def test_requests_that_the_model_cannot_take_are_the_callers_error():
    payload = pb.ModelInferRequest(model_name="toy").SerializeToString()
    refused = pytest.raises(UserError, match=r"refused the first request, made from rows\.npz: as asked; fix")
    with service.running(service.Faults(error_every=1, error=grpc.StatusCode.INVALID_ARGUMENT)) as toy, refused:
        asked.try_one(Connection(toy.target), payload, "rows.npz", 5.0)


def test_other_failures_are_left_for_the_load_test_to_count():
    payload = pb.ModelInferRequest(model_name="toy").SerializeToString()
    with service.running(service.Faults(error_every=1)) as toy:
        asked.try_one(Connection(toy.target), payload, "rows.npz", 5.0)
