"""A local Ray that lives as long as the job: on loopback, quiet, with a token of its own, and gone afterwards."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optimize.errors import ProveserveError, first_line
from serve.processes.process_reaper import environment, reaping
from serve.processes.signals import Interrupts

_LOOPBACK = "127.0.0.1"
_OBJECT_STORE_BYTES = 80 << 20  # Ray's least is 75 MiB; what tasks and results hold is a few bytes
_SOCKETS_ROOT = "/tmp"  # noqa: S108 - Ray's sockets stand below it, and a socket's path is limited to 107 bytes


@contextmanager
def local_ray(cores: int) -> Iterator[Interrupts]:
    """Start Ray with `cores` cores, and end all of it with the context; meanwhile Ctrl-C and SIGTERM are for the caller to heed.

    It must be entered before anything else imports ray, which reads its environment when it is imported.

    Raises:
        ProveserveError: Ray does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="proveserve-score-", dir=_SOCKETS_ROOT))
    with Interrupts() as interrupts, reaping(folder) as mark, _environment(mark, folder):
        import ray  # noqa: PLC0415 - see above

        from serve.rayserve import ray_patches  # noqa: PLC0415 - it brings gRPC, which a refused command line need not wait for

        ray_patches.start_fewer_processes()
        try:
            _start(cores, folder)
            interrupts.listen()  # Ray took SIGTERM for itself
            yield interrupts
        finally:
            interrupts.ignore()
            ray.shutdown()


def _start(cores: int, folder: Path) -> None:
    import ray  # noqa: PLC0415 - as above

    try:
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="CRITICAL",
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address=_LOOPBACK,
            _temp_dir=str(folder),
        )
    except SystemExit:  # Ray's own answer to a SIGTERM while it starts
        raise KeyboardInterrupt from None
    except Exception as error:  # noqa: BLE001 - Ray raises bare Exception, OSError, ValueError and more where it cannot start
        raise ProveserveError(f"Ray does not start on this machine: {first_line(error)}") from None


@contextmanager
def _environment(mark: str, folder: Path) -> Iterator[None]:
    """What Ray and all that it starts read from the environment."""
    wanted = {
        **environment(mark, folder),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only, also where the machine has other addresses
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
