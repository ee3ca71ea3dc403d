"""The errors of an object store, in words for people."""

from collections.abc import Iterator
from contextlib import contextmanager

import botocore.exceptions

from optimize.errors import ProveserveError, UserError

_CREDENTIALS = (
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.TokenRetrievalError,
)


def code_of(error: BaseException) -> str | None:
    """S3's code for an error that a store answered with; None for any other error."""
    cause = error.__cause__
    return str(cause.response["Error"].get("Code")) if isinstance(cause, botocore.exceptions.ClientError) else None


def is_absent(error: OSError) -> bool:
    """Whether there is no such object; unknown, and so False, without its bucket."""
    return isinstance(error, FileNotFoundError) and code_of(error) != "NoSuchBucket"


@contextmanager
def reported(place: str) -> Iterator[None]:
    """Report a store's error, or its silence, in one sentence; errors of local files pass.

    Raises:
        UserError: There is no such bucket, access is refused, or the store cannot be reached.
        ProveserveError: The store answered with another error.
    """
    try:
        yield
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise _without_answer(place, error) from error
    except TimeoutError as error:
        raise UserError(f"{place}: the store does not answer; check the network and AWS_ENDPOINT_URL") from error
    except OSError as error:
        code = code_of(error)
        if code is None:
            raise
        raise _answered(place, code, error) from error


def _without_answer(place: str, error: botocore.exceptions.BotoCoreError | ValueError) -> ProveserveError:
    text = " ".join(str(error).split())
    if isinstance(error, _CREDENTIALS):
        return UserError(
            f"{place}: no credentials: {text}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError)):
        return UserError(f"{place}: the store cannot be reached: {text}; check the network and AWS_ENDPOINT_URL")
    return UserError(f"{place}: cannot be requested: {text}; check the URL and the AWS_* settings")


def _answered(place: str, code: str, error: OSError) -> ProveserveError:
    text = error.strerror or str(error)
    if code == "NoSuchBucket":
        return UserError(f"{place}: there is no bucket of that name; create it, or name another")
    if isinstance(error, PermissionError):
        return UserError(
            f"{place}: access is refused ({code}: {text}); check the credentials, and that they may list, read and write there"
        )
    return ProveserveError(f"{place}: the store answered {code}: {text}; run the command again once it works")
