"""The connection to Redis: finds the server, runs scripts on it once, says what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from jobbus.errors import (
    BackendError,
    BackendFull,
    BackendUnavailable,
    ConfigurationError,
    InvalidJob,
    MissingDependency,
)

from .options import RedisOptions, Sentinels
from .scripts import Script, script

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from jobbus.idempotency.redis import KeyScript

_MOVES: Final = 5
"""How often a cluster may send us on before we give up."""
_RECONNECT_PAUSE: Final = 1.0
_INSIST: Final = 0.05
_SILENCE: Final = 60.0
"""Seconds without news that are no reason to reconnect."""
_OLDEST: Final = (6, 2)
Argument = str | bytes | int


class Link:
    """One client with its connections, on one event loop.

    A call is sent once: after a lost reply nobody knows what happened, and only the caller knows
    whether asking again is safe.
    """

    def __init__(self, options: RedisOptions) -> None:
        self.options = options
        self._client: Redis | None = None
        self._nodes: list[tuple[str, int]] = []
        """Of the cluster, if it is one; the last that was asked is the first."""
        self._epoch = ""
        self._listener: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and check that this server keeps what it is given.

        Raises ConfigurationError where it does not, BackendUnavailable where there is none.
        """
        if self._client is not None:
            return
        self._client = connect(self.options)
        try:
            info = await self.info()
            if info.get("cluster_enabled") == 1:
                self._nodes = await self._known_nodes()
                # Any answer to a command with a key says which node is ours.
                await self.command("EXISTS", self.options.base)
                info = await self.info()
            refuse_unfit(info, self.options)
            await self._adopt_epoch()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let go of all connections. Harmless when repeated."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # The library swallows a cancellation that comes while it connects.
            while not listener.done():
                listener.cancel()
                await asyncio.wait([listener], timeout=_INSIST)
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
            finder = getattr(client.connection_pool, "sentinel_manager", None)
            for sentinel in finder.sentinels if finder else ():
                await sentinel.aclose()

    @property
    def client(self) -> Redis:
        if self._client is None:
            raise BackendUnavailable("this queue is not open: it was closed, or never opened")
        return self._client

    async def ask(self) -> Mapping[str, Any]:
        """What the server says of itself, without having opened, and without checking it."""
        self._client = connect(self.options)
        try:
            return await self.info()
        finally:
            await self.close()

    async def info(self) -> Mapping[str, Any]:
        """What the server says of itself, with its policy for full memory."""
        async with self._translated("ask the server what it is"):
            found: dict[str, Any] = await self.client.info("default")
        if found.get("loading"):
            # Until then it also says that it writes no append-only file.
            raise BackendUnavailable(
                f"Redis at {self.options.location} is still reading its data from disk"
            )
        return found

    async def run(self, name: str, *arguments: Argument) -> Any:
        """Run a script under the known epoch."""
        wanted, known = script(name), self._epoch
        try:
            return await self._evaluate(wanted, name, arguments)
        except _Amnesia:
            if self._epoch == known:
                await self._adopt_epoch()
            raise BackendError(
                f"Redis at {self.options.location} has lost its data: what was written under "
                f"{self.options.prefix!r} before is gone. Restore it from its append-only file or "
                "a replica, or enqueue again what was lost; from now on this process goes by what "
                "is there"
            ) from None

    async def command(self, *words: Argument) -> Any:
        """Run one command of Redis's own."""
        return await self._send(str(words[0]), lambda c: c.execute_command(*words))

    async def _evaluate(self, wanted: Script, name: str, arguments: Sequence[Argument]) -> Any:
        return await self.evaluate(
            wanted, [self.options.base], [self._epoch, *arguments], doing=name
        )

    async def evaluate(
        self,
        wanted: Script | KeyScript,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        *,
        doing: str = "serve the idempotency store",
    ) -> Any:
        """Run a script on keys of our slot; teach it to a server that does not know it yet."""
        from redis.exceptions import NoScriptError

        call: tuple[Argument, ...] = ("EVALSHA", wanted.sha, len(keys), *keys, *arguments)
        try:
            return await self._send(doing, lambda c: c.execute_command(*call))
        except NoScriptError:
            call = ("EVAL", wanted.source, *call[2:])
            return await self._send(doing, lambda c: c.execute_command(*call))

    async def _send(self, what: str, call: Callable[[Redis], Any]) -> Any:
        from redis.exceptions import ConnectionError, MovedError, ReadOnlyError

        async with self._translated(what):
            for _ in range(_MOVES):
                client = self.client
                try:
                    return await call(client)
                except MovedError as moved:
                    # Refused, not run: the slot is on another node.
                    await self._move(client, moved.host, moved.port)
                except ConnectionError:
                    if self._nodes:  # this one may be gone for good, and another know its heir
                        self._nodes.append(self._nodes.pop(0))
                        await self._move(client, *self._nodes[0])
                    raise
                except ReadOnlyError:
                    # A primary no more; its name may lead to another server by now.
                    await client.connection_pool.disconnect(inuse_connections=False)
                    raise
            raise BackendUnavailable(f"the cluster did not say who serves {self.options.base}")

    async def _move(self, before: Redis, host: str, port: int) -> None:
        """Go to another node of the cluster, unless somebody else has done so meanwhile."""
        if self._client is before:
            host = host or str(before.connection_pool.connection_kwargs["host"])
            self._client = connect(self.options, host=host, port=port)
            await before.aclose()

    async def _known_nodes(self) -> list[tuple[str, int]]:
        slots = await self.command("CLUSTER", "SLOTS")
        places = [node[:2] for _, _, *nodes in slots for node in nodes]
        return sorted({(bytes(host).decode(), int(port)) for host, port in places if host})

    async def _adopt_epoch(self) -> None:
        """Learn, or set, the name of this collection of data."""
        key = f"{self.options.base}epoch"
        await self.command("SET", key, secrets.token_hex(8), "NX")
        self._epoch = bytes(await self.command("GET", key)).decode()

    @asynccontextmanager
    async def _translated(self, what: str) -> AsyncIterator[None]:
        from redis import exceptions as redis

        try:
            async with asyncio.timeout(2 * self.options.timeout_seconds):
                yield
        except redis.NoScriptError:
            raise
        except (redis.RedisError, TimeoutError, OSError) as error:
            raise translate(error, what, self.options.location) from error

    def listen(self, heard: Callable[[], None]) -> None:
        """From now on, call ``heard`` when jobs became ready; also after every reconnect."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listening(heard))

    async def _listening(self, heard: Callable[[], None]) -> None:
        from redis.exceptions import RedisError

        while True:
            # What is not heard is found by looking.
            with contextlib.suppress(RedisError, OSError, BackendUnavailable):
                async with self.client.pubsub() as news:
                    await news.subscribe(f"{self.options.base}news")
                    while True:
                        if await news.get_message(timeout=_SILENCE) is not None:
                            heard()
            await asyncio.sleep(_RECONNECT_PAUSE)


class _Amnesia(BackendError):
    """The epoch is not the one that we know."""


def connect(options: RedisOptions, *, host: str | None = None, port: int | None = None) -> Redis:
    """A client that sends every command once, and waits so long for an answer."""
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise MissingDependency(
            'the Redis backend needs redis-py: pip install "jobbus[redis]"'
        ) from error

    wanted: dict[str, Any] = {
        # The library's own would apply a change twice where a reply got lost.
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": options.timeout_seconds,
        "socket_connect_timeout": options.timeout_seconds,
        "socket_keepalive": True,
        "protocol": 2,
        "client_name": "jobbus",
        **({"ssl_check_hostname": True} if options.secure else {}),
    }
    if options.sentinels is not None:
        return _through_sentinels(options, options.sentinels, wanted)
    pool = BlockingConnectionPool.from_url(
        options.plain_url,
        max_connections=options.max_connections,
        timeout=options.timeout_seconds,
        **wanted,
    )
    if host is not None:
        pool.connection_kwargs |= {"host": host, "port": port}
    return Redis.from_pool(pool)


def _through_sentinels(
    options: RedisOptions, sentinels: Sentinels, wanted: Mapping[str, Any]
) -> Redis:
    from redis.asyncio import Redis
    from redis.asyncio.connection import parse_url
    from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

    given = {**parse_url(options.plain_url), **wanted, "ssl": options.secure}
    kept = {n: v for n, v in given.items() if n not in ("host", "port", "connection_class")}
    # User, password and database are the server's; the sentinels have none.
    asking = {n: v for n, v in kept.items() if n not in ("username", "password", "db")}
    finder = Sentinel(list(sentinels.hosts), sentinel_kwargs=asking, **kept)
    return Redis.from_pool(SentinelConnectionPool(sentinels.service, finder, **kept))


def refuse_unfit(info: Mapping[str, Any], options: RedisOptions) -> None:
    """Raise ConfigurationError for a server too old, or one that does not keep jobs."""
    if too_old(info):
        raise ConfigurationError(
            f"Redis {info.get('redis_version')} is too old: jobbus needs 6.2 or newer"
        )
    if options.allow_volatile:
        return
    if problems := losses(info):
        raise ConfigurationError(
            f"Redis at {options.location} may lose jobs: {'; '.join(problems)}. Change that, or "
            "accept it with BACKGROUND_JOBS__REDIS__ALLOW_VOLATILE=true"
        )


def too_old(info: Mapping[str, Any]) -> bool:
    version = str(info.get("redis_version", "0"))
    return tuple(int(part) for part in version.split(".")[:2]) < _OLDEST


def losses(info: Mapping[str, Any]) -> list[str]:
    """Why a server might lose what it accepted, each with its remedy; empty when it keeps it."""
    found = []
    if not info.get("aof_enabled"):
        found.append("it writes no append-only file (set `appendonly yes` in redis.conf)")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        found.append(f"maxmemory-policy is {policy} (set `maxmemory-policy noeviction`)")
    return found


def translate(error: BaseException, what: str, location: str) -> BackendError | InvalidJob:
    """The library's error in jobbus's words. Never repeats an address with its password."""
    from redis import exceptions as redis

    text = str(error)
    told = f"Redis at {location} ({what})"
    if text.startswith("EPOCH"):
        return _Amnesia(f"{told} does not know this epoch")
    if text.startswith("UNKNOWN "):
        return InvalidJob(
            f"depends_on names jobs that do not exist: {text.removeprefix('UNKNOWN ')}. Enqueue "
            "them first, or in the same call"
        )
    if isinstance(error, redis.OutOfMemoryError) or "OOM command not allowed" in text:
        return BackendFull(f"{told} has used up its maxmemory; nothing was written")
    if "MISCONF" in text:
        return BackendFull(f"{told} cannot write to its disk, and takes nothing new: {text}")
    if isinstance(error, redis.AuthenticationError | redis.NoPermissionError):
        return BackendError(f"{told} refuses this user or password: {text}")
    transient = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, TimeoutError,
                 redis.ClusterDownError, redis.TryAgainError, redis.AskError, OSError)  # fmt: skip
    busy = ("BUSY", "NOREPLICAS", "MASTERDOWN", "LOADING", "UNBLOCKED", "READONLY")
    if isinstance(error, transient) or text.startswith(busy):
        return BackendUnavailable(f"{told}: {text or type(error).__name__}")
    return BackendError(f"{told}: {text}")
