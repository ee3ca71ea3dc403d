import warnings

import pytest

from serve.plan import Plan
from serve.served_versions import ServedModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ray declares its own models in a way that pydantic means to drop
    from serve.rayserve.service import start_problem

PLAN = Plan("registry", (ServedModel("double", 1),), "127.0.0.1", 9000, replicas=2)
RAISED = "A replica failed to start with exception. Retrying. Error:\nTraceback (most recent call last):\n  File x\n"


@pytest.mark.parametrize("message", ["", "\n", "Deploying app 'proveserve'.\n"])
def test_a_message_without_a_failure_is_no_problem(message: str) -> None:
    assert start_problem(message, PLAN) is None
    problem = start_problem(message, PLAN, gave_up=True)
    assert problem is not None
    assert problem.startswith("a replica did not start: ")


@pytest.mark.parametrize(
    ("raised", "problem"),
    [
        ("optimize.errors.ArtifactError: double: was changed; export it again", "double: was changed; export it again"),
        (
            "ray.serve._private.node_port_manager.NoAvailablePortError: No available ports on node 1 for gRPC protocol.",
            (
                "one of 127.0.0.1:9000, 127.0.0.1:9001 was taken while the service started; run the command again, or choose others"
                " with --port"
            ),
        ),
        (
            "MemoryError: no room",
            (
                "a replica did not start: MemoryError: no room; run the command again, or see what this machine lacks with"
                " `optimize doctor`"
            ),
        ),
    ],
)
def test_why_a_replica_did_not_start_is_one_line(raised: str, problem: str) -> None:
    assert start_problem(f"{RAISED}{raised}\n", PLAN) == problem
