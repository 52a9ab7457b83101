"""What SQS and boto3 say when something goes wrong, in jobbus's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from botocore.exceptions import (
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from jobbus.errors import (
    BackendError,
    BackendUnavailable,
    LeaseLost,
)

_TRANSIENT: Final = (
    "InternalError",
    "InternalFailure",
    "KmsThrottled",
    "OverLimit",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttl",
    "TooManyRequests",
)
"""Parts of codes after which the same call may succeed."""
_ACCESS: Final = (
    "AccessDenied",
    "AuthFailure",
    "ExpiredToken",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "MissingAuthenticationToken",
    "SignatureDoesNotMatch",
    "UnrecognizedClient",
)
_STALE: Final = ("MessageNotInflight", "ReceiptHandleIsInvalid")
_STALE_WORDS: Final = ("handle has expired", "handle is expired", "beyond the limit")


class NoSuchQueue(BackendError):
    """The queue does not exist in this account and region."""


def translated(error: Exception, what: str) -> BackendError:
    """The error of jobbus's for one that boto3 raised while ``what`` was being done."""
    if isinstance(error, ClientError):
        answer = error.response
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return _answered(answer.get("Error", {}), what, server_fault=status >= 500)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | NoRegionError):
        return BackendError(
            f"{what}: {error}. Credentials and region come from where boto3 looks for them: the "
            "role of the machine or container, AWS_PROFILE, AWS_ACCESS_KEY_ID and its secret, "
            "AWS_REGION; the region also from aws_sqs.region"
        )
    if isinstance(error, BotoConnectionError | HTTPClientError | OSError):
        return BackendUnavailable(f"{what}: SQS does not answer: {error}")
    return BackendError(f"{what}: {error}")


def entry_failure(entry: Mapping[str, Any], what: str) -> BackendError:
    """The error of jobbus's for one failed entry of a batch."""
    return _answered(entry, what, server_fault=not entry.get("SenderFault", False))


def _answered(answer: Mapping[str, Any], what: str, *, server_fault: bool) -> BackendError:
    code, said = str(answer.get("Code", "")), str(answer.get("Message", ""))
    told = f"{what}: SQS says {code}: {said}" if said else f"{what}: SQS says {code}"
    if _has(code, _STALE) or _has(said.casefold(), _STALE_WORDS):
        return LeaseLost(told)
    if _has(code, ("QueueDoesNotExist", "NonExistentQueue")):
        return NoSuchQueue(
            f"{told} Make it with `jobbus doctor --create`, or correct aws_sqs.queue_url, "
            "aws_sqs.queue_prefix or aws_sqs.region"
        )
    if _has(code, _ACCESS):
        return BackendError(
            f"{told} Give this role the permissions in deploy/aws-sqs/ for the queue, or use "
            "other credentials"
        )
    if server_fault or _has(code, _TRANSIENT):
        return BackendUnavailable(told)
    return BackendError(told)


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part in text for part in parts)
