"""A command whose stderr is a terminal."""

import os
import pty
import subprocess
import threading
from pathlib import Path


def in_terminal(command: list[str], cwd: Path | None = None, **environment: str) -> tuple[str, bytes]:
    """What a command draws on a terminal of 100 columns, and what it writes to stdout."""
    master, terminal = pty.openpty()
    drawn: list[bytes] = []

    def read() -> None:
        try:
            while more := os.read(master, 10_000):
                drawn.append(more)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stderr=terminal,
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
        )
    finally:
        os.close(terminal)
        reader.join()
        os.close(master)
    return b"".join(drawn).decode(), done.stdout
