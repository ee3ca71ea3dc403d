"""End every process of a job, whatever becomes of the job itself.

Ray's daemons die with the process that started them, but its agents linger for a minute, and an interrupted start leaves some behind.
So a job starts this module as a process of its own, marks the environment of all that it starts later, and holds a pipe: when the pipe
closes, because the job is done or was killed, all that carries the mark is killed and the job's temporary folder is removed.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "PROVESERVE_JOB"

_LIMIT_S = 10.0
_PAUSE_S = 0.05
_QUIET_ROUNDS = 3
"""Rounds without a find before the guard leaves, as one that is just being started does not carry the mark yet."""


def environment(mark: str, folder: Path) -> dict[str, str]:
    """What every process of a job must have in its environment; temporary files of those that are killed go with `folder`."""
    # A Ray process that titles itself would write over its environment, and whether the mark is hit differs from start to start.
    return {MARK: mark, "SPT_NOENV": "1", "TMPDIR": str(folder)}


@contextmanager
def guarded(folder: Path) -> Iterator[str]:
    """Give the mark that processes of the job must carry, see `environment`; at the end, all of them and `folder` are gone."""
    mark = secrets.token_hex(16)
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, mark, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C on a terminal is the job's to handle
    )
    try:
        yield mark
    finally:
        if guard.stdin is not None:
            guard.stdin.close()
        # Where the machine is too busy for it to be done by now, it goes on by itself.
        with suppress(subprocess.TimeoutExpired):
            guard.wait(3 * _LIMIT_S)


def marked(mark: str) -> list[int]:
    """Process ids of what carries the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # gone, or another user's
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def end(mark: str) -> None:
    """Kill what carries the mark, until nothing does."""
    quiet = 0
    deadline = time.monotonic() + _LIMIT_S
    while quiet < _QUIET_ROUNDS and time.monotonic() < deadline:
        alive = marked(mark)
        for process in alive:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        quiet = 0 if alive else quiet + 1
        time.sleep(_PAUSE_S)


def main() -> None:
    """Wait for the job's end, then clear up behind it."""
    mark, folder = sys.argv[1:]
    sys.stdin.buffer.read()
    end(mark)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
