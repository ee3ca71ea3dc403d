"""Run a module in a process group of its own, which ends with this process, however this process ends.

The parent holds the other end of the child's stdin. Before the module is imported, the child leaves a guard process behind, which
reads that pipe and kills the whole group once the parent's end is closed.
"""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO


def start(
    module: str,
    arguments: Sequence[str],
    log: IO[bytes],
    *,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Run `python -m module arguments`, with its output in `log`; `flags` are the interpreter's. Call :func:`end` on it."""
    return subprocess.Popen(
        [sys.executable, *flags, "-m", __name__, module, *arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the group
    )


def end(child: subprocess.Popen[bytes]) -> None:
    """End the child and everything that it started; its group is its own, so nothing else is hit."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    if child.stdin is not None:
        child.stdin.close()
    child.wait()


def _leave_guard() -> None:
    if os.fork():
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
        return
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    _leave_guard()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
