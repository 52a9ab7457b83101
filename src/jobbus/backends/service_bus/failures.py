"""What the client library raises, as jobbus says it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from azure.core.exceptions import AzureError
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusCommunicationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
    SessionLockLostError,
)

from jobbus.errors import (
    BackendError,
    BackendFull,
    BackendUnavailable,
    ConfigurationError,
    PayloadTooLarge,
)

LOST: Final = (MessageLockLostError, MessageAlreadySettled, SessionLockLostError)
"""The lock is over: an answer, and no failure."""
_TRANSIENT: Final = (
    OperationTimeoutError,
    ServiceBusCommunicationError,
    ServiceBusConnectionError,
    ServiceBusServerBusyError,
)
_REFUSED: Final = (ServiceBusAuthenticationError, ServiceBusAuthorizationError)
ANSWERS: Final = (
    *LOST,
    *_REFUSED,
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
)
"""The link works; one would have liked another answer."""
# A link that breaks in the middle of a call leaves the library with parts that are None, or with a
# handler that it has shut down.
_MISHAPS: Final = (AttributeError, OSError, RuntimeError, TimeoutError, TypeError, ValueError)
BROKEN_LINK: Final = (ServiceBusError, *_MISHAPS)
"""What is none of the answers: the link is given up, and another opened in its place."""
SESSIONS_SETTING: Final = "BACKGROUND_JOBS__AZURE_SERVICE_BUS__SESSIONS"


class QueueMissing(BackendError):
    """Service Bus has no queue of this name."""


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Turn the library's errors into jobbus's; ``doing`` is the beginning of their sentence."""
    try:
        yield
    except (BackendError, ConfigurationError, PayloadTooLarge):
        raise
    except MessagingEntityNotFoundError as error:
        raise QueueMissing(
            f"{doing} failed: there is no such queue. `jobbus doctor --create` makes it"
        ) from error
    except MessageSizeExceededError as error:
        raise PayloadTooLarge(
            f"{doing} failed: the message is larger than this namespace takes: store the payload "
            "elsewhere and pass a reference"
        ) from error
    except ServiceBusQuotaExceededError as error:
        raise BackendFull(f"{doing} failed: the queue or a quota is full") from error
    except _REFUSED as error:
        raise BackendError(
            f"{doing} was refused: check the access key or role, and that its policy may Send and "
            "Listen"
        ) from error
    except MessagingEntityDisabledError as error:
        raise BackendError(f"{doing} was refused: the queue is disabled") from error
    except _TRANSIENT as error:
        raise BackendUnavailable(f"{doing} failed: {_short(error)}") from error
    except (ServiceBusError, AzureError) as error:
        _tell_of_sessions(doing, error)
        # By the library's own word, or where it stumbled over a broken link.
        passing = getattr(error, "_retryable", False) or isinstance(error.inner_exception, _MISHAPS)
        kind = BackendUnavailable if passing else BackendError
        raise kind(f"{doing} failed: {_short(error)}") from error
    except _MISHAPS as error:
        raise BackendUnavailable(f"{doing} failed: {_short(error)}") from error


def _tell_of_sessions(doing: str, error: AzureError) -> None:
    """Raise ConfigurationError where the setting does not say what the queue is."""
    text = str(error).casefold()
    if "amqp:not-allowed" not in text or "session" not in text:
        return
    if "does not require sessions" in text:
        raise ConfigurationError(
            f"{doing} was refused: the queue has no sessions, and {SESSIONS_SETTING} says so. Set "
            "it to false, or name a queue that is created with RequiresSession, which "
            "`jobbus doctor --create` does and no queue can be changed to"
        ) from error
    raise ConfigurationError(
        f"{doing} was refused: the queue requires sessions. Set {SESSIONS_SETTING}=true, or name a "
        "queue that does not"
    ) from error


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
