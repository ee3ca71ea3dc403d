"""A service on Ray Serve, from start to end."""

import contextlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.serve
from ray.serve.config import gRPCOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig

from optimize.errors import ProveserveError, first_line
from serve import logs
from serve.plan import Plan
from serve.processes import haproxy, log_relay, process_reaper
from serve.processes.log_relay import LogFormat
from serve.processes.signals import Interrupts
from serve.rayserve import cluster_config, local_ray, ray_patches
from serve.rayserve.deployment import ModelServer

NAME = "proveserve"
DRAIN_TIMEOUT_S = 60.0
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 10.0
"""A replica that fails its check, or does not answer it, three times in a row is replaced: within a minute, even if it hangs."""
_MAX_ONGOING = 100_000  # the batchers limit the queues, and report a full one in a way that clients understand
_LOG = "log"  # a socket, in the folder that is removed with the service
_REPLICA_FAILED = re.compile("failed to start")
_POLL_S = 0.1
_PUBLISHED_PROBLEM = re.compile(r"optimize\.errors\.\w+: (.+)")


# Serve logs its own start as INFO, whatever its logging config says; problems reach the user as errors.
logging.getLogger("ray.serve").setLevel(logging.ERROR)


def build(plan: Plan, relay: Path | None = None) -> ray.serve.Application:
    """The application: every replica loads and checks every model of the plan, and answers on its own port.

    Replicas send their log to `relay`, if there is one.
    """
    deployment = ray.serve.deployment(ModelServer).options(
        name="models",
        num_replicas=plan.replicas,
        max_ongoing_requests=_MAX_ONGOING,
        max_constructor_retry_count=1,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=DRAIN_TIMEOUT_S,
        ray_actor_options={"num_cpus": 1},
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
    )
    return deployment.bind(plan, relay)


def deployed(arguments: dict[str, Any]) -> ray.serve.Application:
    """The application of a config file that `optimize serve --config-out` wrote; Ray calls this in the cluster."""
    return build(cluster_config.plan_of(arguments))


@contextlib.contextmanager
def running(plan: Plan, interrupts: Interrupts, log: LogFormat = LogFormat.JSON) -> Iterator[None]:
    """Start Ray, Serve and the application; at the end of the block, drain it and end all of them, whatever happened.

    Raises:
        KeyboardInterrupt: A signal came during the start.
        ProveserveError: Ray does not start or is another version, a model cannot be served as it was published, or a port was taken.
    """
    ray_patches.check()
    folder = Path(tempfile.mkdtemp(prefix="proveserve-", dir=local_ray.SOCKETS_ROOT))
    socket = folder / _LOG
    with process_reaper.reaping(folder) as mark, log_relay.relayed(socket, render=log.render) as relay:
        os.environ.update(process_reaper.environment(mark, folder))
        try:
            ray_patches.redirect_daemon_output(lambda text: logs.event("ray", logging.WARNING, text=text))
            _start(plan, folder)
            interrupts.listen()  # Ray took SIGTERM for itself
            interrupts.check()
            handle = _run(plan, socket, interrupts)
            relay.start_writing()
            interrupts.check()
            with _frontend(plan, folder):
                try:
                    yield
                finally:
                    _stop(handle)
        finally:
            ray.shutdown()


def _frontend(plan: Plan, folder: Path) -> contextlib.AbstractContextManager[None]:
    """HAProxy, if the plan has one; otherwise clients call the replicas."""
    if plan.front is None:
        return contextlib.nullcontext()
    return haproxy.running(plan.front, plan.replica_addresses, folder)


def _stop(handle: ray.serve.handle.DeploymentHandle) -> None:
    """Let every replica answer the calls that it accepted; those of a replica that hangs or was lost are lost with it."""
    try:
        ends = handle.broadcast("drain").results(timeout_s=DRAIN_TIMEOUT_S, return_exceptions=True)
    except (TimeoutError, RayServeException) as error:  # RayServeException: no replica runs at this moment
        ends = [error]
    failures = [end for end in ends if isinstance(end, Exception)]
    for failure in failures:
        logs.event("drain_failed", logging.WARNING, reason=first_line(failure))
    ray_patches.redirect_daemon_output(lambda _: None)  # from here on, actors are meant to die
    if not failures:  # otherwise Serve would wait for a lost replica, although all others are done
        ray.serve.shutdown()


def _start(plan: Plan, folder: Path) -> None:
    with local_ray.starting():
        local_ray.init(plan.replicas, folder, logging_level="ERROR", worker_hook=ray_patches.WORKER_HOOK)
        ray.serve.start(
            grpc_options=gRPCOptions(
                port=plan.port, grpc_servicer_functions=["serve.rayserve.ray_patches.add_services"]
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
        )


def _run(plan: Plan, log: Path, interrupts: Interrupts) -> ray.serve.handle.DeploymentHandle:
    """Deploy, and wait until every replica answers; Serve itself would wait for ever for a second replica that cannot start."""
    target = ray.serve.RunTarget(build(plan, log), name=NAME, route_prefix=None)
    (handle,) = ray.serve.run_many([target], wait_for_applications_running=False)
    while (application := ray.serve.status().applications[NAME]).status != ApplicationStatus.RUNNING:
        messages = [application.message, *(deployment.message for deployment in application.deployments.values())]
        gave_up = application.status == ApplicationStatus.DEPLOY_FAILED
        problem = start_problem("\n".join(messages), plan, gave_up=gave_up)
        if problem is not None:
            raise ProveserveError(problem)
        interrupts.check()
        time.sleep(_POLL_S)
    return handle


def start_problem(message: str, plan: Plan, *, gave_up: bool = False) -> str | None:
    """One line about why a replica did not start, from a message of Ray Serve; None if the message is about something else."""
    if not gave_up and not _REPLICA_FAILED.search(message):
        return None
    if found := _PUBLISHED_PROBLEM.findall(message):
        return str(found[-1])
    if "NoAvailablePort" in message or "Failed to bind" in message:
        taken = ", ".join(plan.replica_addresses)
        return (
            f"one of {taken} was taken while the service started; run the command again, or choose others with --port"
        )
    *_, last = message.strip().splitlines() or ["no reason is known"]
    return f"a replica did not start: {last.strip()}; run the command again, or see what this machine lacks with `optimize doctor`"
