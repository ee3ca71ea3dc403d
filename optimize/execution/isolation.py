"""Run one function in a fresh process, with a time limit and a memory limit.

A crash, a hang or an out-of-memory is then a failure of that one call, with its cause, and the caller continues. The processes
meet in files: the call goes in pickled, the result comes back pickled, and the output of the child goes to a log.

Memory is the polled resident set of the child and its descendants: RLIMIT_AS would count address space that is never used.
"""

import contextlib
import errno
import importlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from optimize.errors import CandidateError, ProcessError, ProveserveError, UserError
from optimize.execution import child_process

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_TIMEOUT_S = 1800.0
_DEFAULT_MEMORY_SHARE = 0.8
_POLL_S = 0.05
# Looking for descendants reads every process of the machine, which would disturb a measurement.
_POLLS_PER_CENSUS = 20
_LOG_TAIL_CHARACTERS = 300

_CALL, _RESULT, _LOG = "call.pickle", "result.pickle", "log.txt"


class Isolated:
    """Limits that apply to every call made through it."""

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S, memory_mb: float | None = None) -> None:
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb or _DEFAULT_MEMORY_SHARE * psutil.virtual_memory().total / 1e6

    def allowing(self, more_s: float) -> "Isolated":
        """The same limits for a call that may last `more_s` longer."""
        return Isolated(self.timeout_s + more_s, self.memory_mb)

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a module-level function in a fresh process and return its result.

        Raises:
            UserError: As raised by the function.
            ProveserveError: The disk is full.
            CandidateError: The function raised anything else, hung, died, or used more memory than it may; the message is the cause.
        """
        with tempfile.TemporaryDirectory(prefix="proveserve-") as name:
            folder = Path(name)
            call = (function.__module__, function.__qualname__, args, kwargs)
            (folder / _CALL).write_bytes(pickle.dumps(call))
            code = self._watch(folder)
            result = folder / _RESULT
            if not result.exists():
                raise ProcessError(_cause_of_death(code, folder / _LOG))
            kind, value = pickle.loads(result.read_bytes())  # noqa: S301 - written by our own child in a private folder
        if kind == "error":
            raise value
        answer: T = value
        return answer

    def _watch(self, folder: Path) -> int:
        deadline, polls = time.monotonic() + self.timeout_s, itertools.count()
        family: list[psutil.Process] = []
        with (folder / _LOG).open("wb") as log:
            child = child_process.start("optimize.execution.isolation", [str(folder)], log)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(_POLL_S)
                if next(polls) % _POLLS_PER_CENSUS == 0:
                    family = _family(child.pid)
                self._check(family, deadline)
        finally:
            child_process.end(child)

    def _check(self, family: list[psutil.Process], deadline: float) -> None:
        if time.monotonic() > deadline:
            raise ProcessError(f"did not finish within its time limit of {self.timeout_s:g} s")
        used_mb = _resident_mb(family)
        if used_mb > self.memory_mb:
            raise ProcessError(f"used {used_mb:.0f} MB of memory, over its limit of {self.memory_mb:.0f} MB")


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident_mb(family: list[psutil.Process]) -> float:
    total = 0
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total / 1e6


def _cause_of_death(code: int, log: Path) -> str:
    said = log.read_text(errors="replace").strip()[-_LOG_TAIL_CHARACTERS:].replace("\n", " | ")
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    return f"its process {how}" + (f"; its last words: {said}" if said else "")


def _main(folder: Path) -> None:
    outcome: tuple[str, object]
    try:
        module, name, args, kwargs = pickle.loads((folder / _CALL).read_bytes())  # noqa: S301 - written by our own parent
        function = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        outcome = ("value", function(*args, **kwargs))  # type: ignore[operator] # named by the parent, always a function
    except (UserError, CandidateError) as error:
        outcome = ("error", error)
    except ProveserveError as error:
        outcome = ("error", CandidateError(str(error)))
    except (OSError, MemoryError) as error:
        outcome = ("error", _full_disk(error) or ProcessError(_named(error)))
    except Exception as error:  # noqa: BLE001 - the process boundary: any failure is the candidate's
        outcome = ("error", CandidateError(_named(error)))
    temporary = folder / f"{_RESULT}.tmp"
    temporary.write_bytes(pickle.dumps(outcome))
    temporary.replace(folder / _RESULT)
    # Skip interpreter shutdown: the result is on disk, and native libraries have crashed here after their work was done.
    sys.stdout.flush()
    os._exit(0)


def _full_disk(error: Exception) -> ProveserveError | None:
    """The error for a full disk, which is no candidate's failure: the next one would meet it too."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ProveserveError(f"{_named(error)}; make room, and run the command again")
    return None


def _named(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
