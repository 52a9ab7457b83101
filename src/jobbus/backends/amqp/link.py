"""One connection to the broker: opened with a deadline, watched, and its errors in our words."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar, cast

import aiormq
from aiormq import exceptions
from aiormq.channel import Channel
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from jobbus.errors import BackendError, BackendUnavailable, ConfigurationError

T = TypeVar("T")
CONNECT_SECONDS: Final = 10
CALL_SECONDS: Final = 10
_CLOSE_SECONDS: Final = 3
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_OPEN_OK: Final = "Connection.OpenOk"
"""What the client library misses, in its own words, where the virtual host is refused."""
CREATE: Final = "`jobbus doctor --create` makes what is missing"


class Missing(BackendError):
    """What a message was sent to, or received from, does not exist."""


def address(text: str) -> URL:
    """The broker's address. Raises ConfigurationError, repeating no password, for what is none."""
    scheme, _, rest = text.strip().partition("://")
    if scheme.casefold() not in ("amqp", "amqps", "rabbitmq"):
        raise ConfigurationError(
            "the address of RabbitMQ begins with amqp:// or amqps://, as in "
            "amqps://user:password@broker.example/vhost; what was given does not"
        )
    try:
        url = URL(f"{'amqps' if scheme.casefold() == 'amqps' else 'amqp'}://{rest}")
        port = url.port or (5671 if url.scheme == "amqps" else 5672)
        return url.with_host(url.host or "localhost").with_port(port)
    except ValueError:
        # Its words may hold the password.
        raise ConfigurationError("the address of RabbitMQ cannot be read as a URL") from None


def readable(url: URL) -> str:
    """Host, port and virtual host, for people; without user and password."""
    return f"{url.scheme}://{url.host}:{url.port}{url.raw_path.rstrip('/')}"


def warnings_about(url: URL) -> list[str]:
    """What is unsafe about an address, where it leads off this machine."""
    if url.host in _LOOPBACK:
        return []
    found = []
    if (url.user or "guest", url.password or "guest") == ("guest", "guest"):
        found.append("the user guest with the password guest is everybody's: make a user")
    if url.scheme != "amqps":
        found.append("the connection is not encrypted: use amqps://")
    elif url.query.get("no_verify_ssl", "0") != "0":
        found.append("the broker's certificate is not verified: leave no_verify_ssl out")
    return found


class Link:
    """An AMQP connection that is broken for good once it is broken.

    A connection whose event loop stood still for ``heartbeat`` may have been given up by the
    broker, and what it held may be in other hands: it counts as broken from that moment on, and
    breaks itself as soon as it can. :attr:`alive` may be asked from any thread.
    """

    def __init__(self, url: URL, *, heartbeat: timedelta, name: str) -> None:
        seconds = int(heartbeat.total_seconds())
        self._place = readable(url)
        self._url = url.update_query(heartbeat=str(seconds), name=name)
        self._patience = heartbeat.total_seconds()
        self._connection: Any = None
        self._socket = _Socket()
        self._broken = False
        self._beat = time.monotonic()
        self._watching: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return not self._broken and time.monotonic() - self._beat < self._patience

    async def open(self) -> None:
        """Connect. Raises ConfigurationError for what the broker refuses, BackendUnavailable."""
        connection = aiormq.Connection(self._url, transport_factory=self._socket)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()
        except (exceptions.AuthenticationError, exceptions.ProbableAuthenticationError) as error:
            raise ConfigurationError(
                f"RabbitMQ at {self._place} refuses user and password: check rabbitmq.url"
            ) from error
        except exceptions.InvalidFrameError as error:
            if _OPEN_OK not in str(error):
                raise self._unreachable(error) from error
            raise ConfigurationError(
                f"RabbitMQ at {self._place} refuses this virtual host: it is missing or down, or "
                "the user has no right to it"
            ) from error
        except (OSError, exceptions.AMQPError, EOFError) as error:
            raise self._unreachable(error) from error
        except asyncio.CancelledError as error:
            raise _cancelled_or(self._unreachable(error)) from error
        self._connection = connection
        connection.closing.add_done_callback(self._note_end)
        self._beat = time.monotonic()
        self._watching = asyncio.create_task(self._watch(), name="jobbus-rabbitmq-link")

    def _unreachable(self, error: BaseException) -> BackendUnavailable:
        why = f": {error}" if str(error) else ""
        return BackendUnavailable(f"RabbitMQ at {self._place} cannot be reached{why}")

    @property
    def server_version(self) -> tuple[int, ...]:
        """Such as ``(3, 10, 8)``; empty where the broker does not say."""
        properties = self._connection.server_properties if self._connection else {}
        told = properties.get("version", "")
        return tuple(int(part) for part in re.findall(r"\d+", str(told))[:3])

    async def channel(self, *, confirms: bool) -> Channel:
        """A channel of its own. Raises what the connection's state makes of it."""
        if self._connection is None or not self.alive:
            raise BackendUnavailable(f"the connection to RabbitMQ at {self._place} is gone")
        opened = await self._connection.channel(publisher_confirms=confirms, timeout=CALL_SECONDS)
        return cast("Channel", opened)

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Raise the client library's errors as jobbus's own, saying what was being done."""
        try:
            yield
        except (exceptions.ChannelNotFoundEntity, exceptions.PublishError) as error:
            raise Missing(f"{doing} failed, since it does not exist: {CREATE}") from error
        except exceptions.ChannelPreconditionFailed as error:
            raise ConfigurationError(
                f"{doing} failed: it exists with other arguments; delete it once it is empty, or "
                f"choose another rabbitmq.queue_prefix ({error.args[0] if error.args else ''})"
            ) from error
        except exceptions.ChannelAccessRefused as error:
            raise ConfigurationError(
                f"{doing} failed: the user has no right to ({error.args[0] if error.args else ''})"
            ) from error
        except TimeoutError as error:
            raise BackendUnavailable(
                f"RabbitMQ at {self._place} did not answer in time: {doing}"
            ) from error
        except (exceptions.AMQPError, exceptions.ChannelInvalidStateError, OSError) as error:
            raise BackendUnavailable(
                f"the connection to RabbitMQ at {self._place} broke: {doing}"
            ) from error
        except Exception as error:
            if type(error) is not Exception:
                raise
            # So the library tells whoever waits on a channel that is being closed.
            raise BackendUnavailable(f"the connection to RabbitMQ was closed: {doing}") from error
        except asyncio.CancelledError as error:
            # The library cancels what waits on a connection that ends.
            broken = BackendUnavailable(f"the connection to RabbitMQ broke: {doing}")
            raise _cancelled_or(broken) from error

    async def close(self) -> None:
        """Let go, within seconds. Harmless when repeated or never opened."""
        self._broken = True
        if self._watching is not None and self._watching is not asyncio.current_task():
            self._watching.cancel()
        if self._connection is not None:
            # Not a timeout around the call: a cancelled close waits as long as the library does.
            limit = asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self._socket.abort)
            try:
                await self._connection.close(exceptions.ConnectionClosed(0, "closed here"))
            except (exceptions.AMQPError, OSError):
                return  # it is let go of in any case; what it says on the way out concerns nobody
            finally:
                limit.cancel()
                self._socket.abort()

    def _note_end(self, _: Any) -> None:
        self._broken = True

    async def _watch(self) -> None:
        while not self._broken:
            await asyncio.sleep(1)
            if not self.alive:
                await self.close()
            self._beat = time.monotonic()


class _Socket(TransportFactory):
    """Makes the connection's socket, and can drop it.

    The library waits without end for a broker that stands still to read the last of what it sent.
    """

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        maker = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, self._writer = await maker.create(url, **options)
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _cancelled_or(error: BackendError) -> BaseException:
    """The cancellation that somebody asked for; else the error."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    return error


class Detached:
    """Calls that end whether or not somebody goes on waiting for them.

    A call on a channel that is cancelled half-way closes the channel, and with it every lease that
    was taken on it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Its result, or its error. Cancelling the wait leaves the call alone."""
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def ended(self) -> None:
        """Until every call has ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has been told; nobody else needs to be
