"""A local Ray: on loopback, quiet, and gone when its owner is."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optimize.errors import ProveserveError, first_line
from serve.processes.process_reaper import environment, reaping
from serve.processes.signals import Interrupts

SOCKETS_ROOT = "/tmp"  # noqa: S108 - Ray's sockets are below it, and a socket's path is limited to 107 bytes
_LOOPBACK = "127.0.0.1"
_OBJECT_STORE_BYTES = 80 << 20  # Ray's least is 75 MiB; no large data passes through it


@contextmanager
def local_ray(cores: int) -> Iterator[Interrupts]:
    """Run Ray with `cores` cores and its own token; meanwhile Ctrl-C and SIGTERM are remembered, for the caller to check.

    Enter it before anything else imports ray, which reads its environment when it is imported.

    Raises:
        ProveserveError: Ray does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="proveserve-score-", dir=SOCKETS_ROOT))
    with Interrupts() as interrupts, reaping(folder) as mark, _environment(mark, folder):
        import ray  # noqa: PLC0415 - see above

        try:
            with starting():
                init(cores, folder, logging_level="CRITICAL")
            interrupts.listen()  # Ray took SIGTERM for itself
            yield interrupts
        finally:
            interrupts.ignore()
            ray.shutdown()


def init(cores: int, folder: Path, *, logging_level: str, worker_hook: str | None = None) -> None:
    """Start Ray, with its sockets and logs in `folder`; every worker calls `worker_hook` first."""
    import ray  # noqa: PLC0415 - see local_ray

    from serve.rayserve import ray_patches  # noqa: PLC0415 - it brings gRPC, which a refused command line need not wait for

    ray_patches.start_fewer_processes()
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging_level,
        object_store_memory=_OBJECT_STORE_BYTES,
        runtime_env=None if worker_hook is None else {"worker_process_setup_hook": worker_hook},
        _node_ip_address=_LOOPBACK,
        _temp_dir=str(folder),
    )


@contextmanager
def starting() -> Iterator[None]:
    """Report in one sentence that Ray, or a part of it, does not start.

    Raises:
        KeyboardInterrupt: A signal came.
        ProveserveError: Anything else.
    """
    try:
        yield
    except SystemExit:  # Ray raises this on a SIGTERM during its start
        raise KeyboardInterrupt from None
    except ProveserveError:  # another release of Ray than this one needs
        raise
    except Exception as error:  # Ray raises bare Exception, OSError, RuntimeError and more where it cannot start
        raise ProveserveError(
            f"Ray does not start on this machine: {first_line(error)}; see that it has room below {SOCKETS_ROOT} and is not"
            " overloaded, and run the command again"
        ) from error


@contextmanager
def _environment(mark: str, folder: Path) -> Iterator[None]:
    """What Ray and its processes read from the environment."""
    wanted = {
        **environment(mark, folder),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only, even where the machine has other addresses
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would copy the working directory
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
