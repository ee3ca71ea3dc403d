"""End every process of a job when the job ends, even if it is killed.

Ray's daemons end with the process that started them, but its agents stay for a minute, and an interrupted start leaves processes
behind. So a job starts this module as a separate process, marks the environment of everything that it starts later, and keeps a
pipe open. When the pipe closes, because the job is done or was killed, all marked processes are killed and the job's temporary
folder is removed.
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
"""Rounds without a marked process before the reaper stops: a process that is being started does not have the mark yet."""


def environment(mark: str, folder: Path) -> dict[str, str]:
    """What every process of a job needs in its environment; temporary files of killed processes are removed with `folder`."""
    # A Ray process that sets its title would write over its environment, and sometimes over the mark.
    return {MARK: mark, "SPT_NOENV": "1", "TMPDIR": str(folder)}


@contextmanager
def reaping(folder: Path) -> Iterator[str]:
    """The mark for the processes of a job, see `environment`; at the end of the block, all of them and `folder` are removed."""
    mark = secrets.token_hex(16)
    reaper = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, mark, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # the job handles Ctrl-C on a terminal
    )
    try:
        yield mark
    finally:
        if reaper.stdin is not None:
            reaper.stdin.close()
        # On a busy machine it may take longer, and goes on without us.
        with suppress(subprocess.TimeoutExpired):
            reaper.wait(3 * _LIMIT_S)


def marked(mark: str) -> list[int]:
    """Process ids of all processes with the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # it is gone, or belongs to another user
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def end(mark: str) -> None:
    """Kill all processes with the mark, until there are none."""
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
    """Wait for the end of the job, then clean up."""
    mark, folder = sys.argv[1:]
    sys.stdin.buffer.read()
    end(mark)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
