"""Idempotency keys in Redis: a batch of requests is one script and one round trip."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, Self

from jobbus.errors import (
    BackendError,
    BackendFull,
    BackendUnavailable,
    ConfigurationError,
    MissingDependency,
    Unsupported,
)
from jobbus.idempotency.store import (
    Answer,
    KeyClaim,
    KeyEnd,
    KeyHold,
    KeyRecord,
    KeyState,
    Reply,
)

try:
    from redis import exceptions
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as error:
    raise MissingDependency(
        'idempotency keys in Redis need its client: pip install "jobbus[redis]"'
    ) from error

DEFAULT_PREFIX: Final = "jobbus"
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_SCHEME: Final = re.compile(r"(rediss?|unix)://")
_DEADLINE: Final = timedelta(seconds=5)
_MAX_CONNECTIONS: Final = 10
TOGETHER: Final = 100
"""Keys for one script: others wait meanwhile."""
_STATES: Final = {
    b"i": KeyState.IN_PROGRESS,
    b"r": KeyState.RELEASED,
    b"c": KeyState.COMPLETED,
    b"f": KeyState.FAILED,
}


@dataclass(frozen=True, slots=True)
class KeyScript:
    """What a server runs, and the name under which it remembers it."""

    source: str
    sha: str


@lru_cache(maxsize=8)
def key_script(name: str) -> KeyScript:
    """The script of that name."""
    folder = files(__package__) / "lua"
    parts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("base", name)]
    text = "\n".join(parts)
    # Redis names scripts by this digest; nothing is protected by it.
    return KeyScript(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class RedisIdempotencyStore:
    """Keys in Redis 6.2 or newer, seen by every process that reaches it.

    Each key is one string under ``PREFIX:idempotency:{DIGEST}``: what callers chose never becomes
    part of a Redis key. The braces let a cluster spread them; there each key is a script of its
    own. What Redis acknowledged may be lost with its machine, for up to a second with
    ``appendfsync everysec``.
    """

    def __init__(
        self,
        url: str,
        ttl: timedelta = timedelta(days=7),
        *,
        prefix: str = DEFAULT_PREFIX,
        deadline: timedelta = _DEADLINE,
    ) -> None:
        """``deadline`` is for connecting and for each round trip. Raises ConfigurationError."""
        if _PREFIX.fullmatch(prefix) is None:
            raise ConfigurationError(
                f"the prefix {prefix!r} cannot name Redis keys: take 1 to 64 of A-Z a-z 0-9 _ . : -"
            )
        if _SCHEME.match(url) is None:
            raise ConfigurationError(
                "a Redis address begins with redis://, rediss:// or unix://, as in "
                "redis://127.0.0.1:6379/0"
            )
        self._url = url
        self._ttl = ttl
        self._prefix = prefix
        self._deadline = deadline
        self._client: Redis | None = None
        self._apart = False
        """Keys may not share a script, as their slots differ."""

    async def open(self) -> None:
        if self._client is None:
            seconds = self._deadline.total_seconds()
            try:
                self._client = Redis.from_url(
                    self._url,
                    socket_timeout=seconds,
                    socket_connect_timeout=seconds,
                    max_connections=_MAX_CONNECTIONS,
                    # Repeating is the caller's, who knows what may be repeated (RD-4).
                    retry=Retry(NoBackoff(), 0),
                )
            except (ValueError, exceptions.RedisError) as error:
                raise ConfigurationError(
                    f"the Redis address of the idempotency store cannot be used: {error}"
                ) from error

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def separate(self) -> Self:
        return type(self)(self._url, self._ttl, prefix=self._prefix, deadline=self._deadline)

    async def begin(self, claims: Sequence[KeyClaim], lease: timedelta) -> Sequence[Reply]:
        span = _microseconds(lease)
        calls = [
            (one.key, one.owner, one.fingerprint, one.job_id, span, self._ttl_ms, one.max_crashes)
            for one in claims
        ]
        return [_reply(row) for row in await self._run("begin", calls)]

    async def renew(self, holds: Sequence[KeyHold], lease: timedelta) -> Sequence[Answer]:
        span = _microseconds(lease)
        calls = [(one.key, one.owner, one.fence, span, self._ttl_ms) for one in holds]
        return _answers(await self._run("renew", calls))

    async def complete(
        self, ends: Sequence[KeyEnd], *, connection: Any | None = None
    ) -> Sequence[Answer]:
        if connection is not None:
            raise Unsupported("idempotency keys in Redis cannot join a database's transaction")
        return await self._finish(ends, "c")

    async def fail(self, ends: Sequence[KeyEnd]) -> Sequence[Answer]:
        return await self._finish(ends, "f")

    async def release(self, holds: Sequence[KeyHold]) -> Sequence[Answer]:
        calls = [(one.key, one.owner, one.fence, self._ttl_ms) for one in holds]
        return _answers(await self._run("release", calls))

    async def look(self, keys: Sequence[str]) -> Sequence[KeyRecord | None]:
        return [_record(row) for row in await self._run("look", [(key,) for key in keys])]

    async def reopen(self, keys: Sequence[str]) -> None:
        await self._run("reopen", [(key, self._ttl_ms) for key in keys])

    async def prune(self, *, limit: int = 1000) -> int:
        return 0

    async def concerns(self) -> Sequence[str]:
        with _translated():
            memory = await self._opened.info("memory")
            persistence = await self._opened.info("persistence")
        if persistence.get("loading"):
            # Until then it also says that it keeps no log.
            raise BackendUnavailable("Redis is still reading its data from disk")
        told = []
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            told.append(
                f"Redis may evict idempotency keys (maxmemory-policy is {policy}), after which "
                "work is done again: set it to noeviction"
            )
        if not persistence.get("aof_enabled"):
            told.append(
                "Redis keeps no log of its writes (appendonly is off): when it restarts, the "
                "latest idempotency keys are forgotten and their work may be done again"
            )
        return told

    # how scripts run

    @property
    def _opened(self) -> Redis:
        if self._client is None:
            raise BackendUnavailable("this idempotency store is closed, or was never opened")
        return self._client

    @property
    def _ttl_ms(self) -> int:
        return round(self._ttl.total_seconds() * 1000)

    async def _finish(self, ends: Sequence[KeyEnd], state: str) -> Sequence[Answer]:
        calls = [
            (
                end.hold.key,
                end.hold.owner,
                end.hold.fence,
                end.hold.fingerprint,
                state,
                self._ttl_ms,
                end.hold.job_id,
                b"-" if end.data is None else b"+" + end.data,
            )
            for end in ends
        ]
        return _answers(await self._run("finish", calls))

    async def _run(self, name: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The script's answer to each call, whose first value is the key."""
        return await self._evaluate(name, calls) if calls else []

    def _name(self, key: str) -> str:
        return f"{self._prefix}:idempotency:{{{key_digest(key)}}}"

    async def _evaluate(self, name: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """In one round trip."""
        step = 1 if self._apart else TOGETHER
        batches = [calls[start : start + step] for start in range(0, len(calls), step)]
        script = key_script(name)
        with _translated():
            answers = await self._pipelined("evalsha", script.sha, batches)
            unknown = [i for i, row in enumerate(answers) if _is_unknown(row)]
            if unknown:
                # A server that was restarted, or failed over to, has not seen the script yet.
                again = await self._pipelined("eval", script.source, [batches[i] for i in unknown])
                for index, row in zip(unknown, again, strict=True):
                    answers[index] = row
            for row in answers:
                if _is_crossing(row) and not self._apart:
                    # A node of a cluster. What was done meanwhile, done again changes nothing.
                    self._apart = True
                    return await self._evaluate(name, calls)
                if isinstance(row, Exception):
                    raise row
        return [answer for row in answers for answer in row]

    async def _pipelined(
        self, command: str, script: str, batches: Sequence[Sequence[tuple[Any, ...]]]
    ) -> list[Any]:
        async with self._opened.pipeline(transaction=False) as pipeline:
            for batch in batches:
                names = [self._name(call[0]) for call in batch]
                getattr(pipeline, command)(script, len(names), *names, *script_arguments(batch))
            return list(await pipeline.execute(raise_on_error=False))


def key_digest(key: str) -> str:
    """A name for what callers chose, which never becomes part of a Redis key itself."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def script_arguments(batch: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """What a script takes of each call: words behind the key, and a result as bytes at the end.

    One argument each, since the client library takes microseconds for every one.
    """
    if isinstance(batch[0][-1], bytes):
        return [_lines(call[1:-1]) + call[-1] for call in batch]
    return [_lines(call[1:]) for call in batch]


def _lines(words: tuple[Any, ...]) -> bytes:
    return "".join([f"{_word(word)}\n" for word in words]).encode("utf-8", "replace")


def _word(value: object) -> object:
    # Ids come from strangers, too, where a broker's messages do.
    return value.replace("\n", " ") if isinstance(value, str) else value


def _is_unknown(row: Any) -> bool:
    return isinstance(row, exceptions.NoScriptError)


def _is_crossing(row: Any) -> bool:
    return isinstance(row, exceptions.ResponseError) and "CROSSSLOT" in str(row)


def _microseconds(span: timedelta) -> int:
    return round(span.total_seconds() * 1_000_000)


def _answers(rows: Sequence[bytes]) -> list[Answer]:
    return [Answer(row.decode()) for row in rows]


def _reply(row: Sequence[Any]) -> Reply:
    answer, fence = Answer(row[0].decode()), int(row[1])
    if answer is Answer.BUSY:
        return Reply(answer=answer, fence=fence, wait=timedelta(milliseconds=int(row[2])))
    if answer is Answer.DONE:
        state, crashes, fingerprint, job_id, data = row[2:7]
        record = _record((state, fence, crashes, fingerprint, job_id, data))
        return Reply(answer=answer, fence=fence, record=record)
    return Reply(answer=answer, fence=fence)


def _record(row: Sequence[Any]) -> KeyRecord | None:
    if row[0] is None:
        return None
    state, fence, crashes, fingerprint, job_id, data = row
    return KeyRecord(
        state=_STATES[state],
        fence=int(fence),
        crashes=int(crashes),
        fingerprint=fingerprint.decode(),
        job_id=job_id.decode(),
        data=data[1:] if data[:1] == b"+" else None,
    )


@contextmanager
def _translated() -> Iterator[None]:
    """redis-py's errors as jobbus names them."""
    try:
        yield
    except exceptions.OutOfMemoryError as error:
        raise BackendFull(
            "Redis has no memory left for idempotency keys; nothing was kept"
        ) from error
    except (exceptions.AuthenticationError, exceptions.AuthorizationError) as error:
        raise BackendError(f"Redis refuses the idempotency store: {error}") from error
    except (
        exceptions.ConnectionError,
        exceptions.TimeoutError,
        exceptions.ReadOnlyError,
        OSError,
    ) as error:
        raise BackendUnavailable(
            f"the idempotency store in Redis cannot be reached: {error}"
        ) from error
    except exceptions.RedisError as error:
        raise BackendError(f"Redis could not serve the idempotency store: {error}") from error
