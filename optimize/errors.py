"""What can go wrong, and the exit code each kind ends a command with.

    ProveserveError                 4  the run itself broke
    ├── UserError                   2  the user must fix it: command line, file, source or data
    │   ├── BudgetsError               budgets.toml cannot be read or says something impossible
    │   ├── SourceError                the model, its samples or its metric cannot be used
    │   └── InputError                 the inputs of one request do not fit the model's signature
    ├── ArtifactError               4  a published file is missing, damaged or cannot be opened
    ├── ExecutionError              4  a model failed on a batch; most callers know more, and raise another error from it
    └── CandidateError              -  one candidate's own failure; the run goes on without it
        └── ProcessError               its process hung, died or outgrew its memory: another run may succeed

Every message says what was found, what was wanted, and the fix.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    OVER_BUDGET = 1
    USAGE = 2
    INCONCLUSIVE = 3
    BROKEN = 4
    INTERRUPTED = 130


class ProveserveError(Exception):
    """Base of all errors that a command reports in one line."""

    exit_code: Exit = Exit.BROKEN


class UserError(ProveserveError):
    """Something that the user must fix before the command can do its work."""

    exit_code = Exit.USAGE


class BudgetsError(UserError):
    """budgets.toml cannot be read, or asks for something impossible."""


class SourceError(UserError):
    """The model, its samples or its metric cannot be loaded or do not fit together."""


class InputError(UserError):
    """The inputs of one request do not fit the model's signature."""


class ArtifactError(ProveserveError):
    """A published file is missing, damaged, or cannot be opened."""


class ExecutionError(ProveserveError):
    """A model failed on one batch of inputs, whichever runtime ran it; the message is the runtime's own."""


class CandidateError(ProveserveError):
    """One candidate cannot be built or measured; the message is its cause."""


class ProcessError(CandidateError):
    """A candidate's process hung, died, or used more memory than it may; unlike other failures it is never cached."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
