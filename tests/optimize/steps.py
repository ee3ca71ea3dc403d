"""Functions for child processes: each behaves, or misbehaves, in one way."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from optimize.errors import ArtifactError, SourceError


def add(a: int, b: int = 0) -> int:
    return a + b


def prints() -> str:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(1, b"past Python\n")
    return sys.stdin.read()


def sleeps(folder: Path, pids: int = 1) -> None:
    """Write the pids of this process and of `pids - 1` children of its own, and hang."""
    children = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], stdin=subprocess.DEVNULL)
        for _ in range(pids - 1)
    ]
    temporary = folder / "pids.tmp"
    temporary.write_text("\n".join(map(str, [os.getpid(), *(child.pid for child in children)])))
    temporary.replace(folder / "pids")
    time.sleep(120)


def leaves_child_behind(folder: Path) -> str:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], stdin=subprocess.DEVNULL)
    (folder / "pids").write_text(str(child.pid))
    return "done"


def dies_by(signum: int) -> None:
    print("farewell", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signum)
    time.sleep(120)


def aborts() -> None:
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    os.abort()


def exits(code: int) -> None:
    print("out of here", file=sys.stderr, flush=True)
    sys.exit(code)


def vanishes() -> None:
    os._exit(0)


def grows(mb: int) -> None:
    held = []
    for _ in range(mb):
        held.append(b"x" * 1_000_000)
        time.sleep(0.001)
    time.sleep(120)


def lets_a_child_grow(mb: int) -> None:
    code = f"import time; held = b'x' * {mb * 1_000_000}; time.sleep(120)"
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=False)


def raises(text: str) -> None:
    raise ValueError(text)


def raises_silently() -> None:
    raise KeyError


def raises_user_error() -> None:
    raise SourceError("labels are missing; add them")


def raises_artifact_error() -> None:
    raise ArtifactError("cannot be opened")


def returns_what_no_pickle_holds() -> object:
    return lambda: None


def fills_the_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Sum(msgspec.Struct, frozen=True):
    total: int


def builds(number: int, folder: Path) -> Sum:
    (folder / "file").write_text(str(number))
    return Sum(number)


def counts_and_raises(counter: Path, *_: Path) -> None:
    """Append an x to the file, and fail."""
    with counter.open("a") as file:
        file.write("x")
    raise ValueError("no")


def sleeps_without(file: Path) -> int:
    """Hang until killed, where the file does not exist."""
    if not file.exists():
        time.sleep(120)
    return 1


def reads(path: Path) -> str:
    return path.read_text()


def writes(text: str, target: Path, *, twice: bool) -> None:
    target.write_text(text * 2 if twice else text)
