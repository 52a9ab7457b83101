"""SQS as a set of awaitable calls: boto3 in threads, batches of ten, a deadline for each."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from jobbus.errors import BackendError, BackendUnavailable, ConfigurationError

from .failures import entry_failure, translated
from .limits import MAX_BYTES, MAX_ENTRIES
from .threads import Threads

MOST_CALLS: Final = 64
"""At once, long polls included: that many threads and connections, each made when it is needed."""
DEADLINE: Final = 10.0
"""Seconds for every call but a long poll."""
_CONNECT: Final = 5
_LAST_RESORT: Final = "us-west-2"

T = TypeVar("T")
Entry = Mapping[str, Any]
Outcome = BackendError | None
"""Of one entry of a batch; None is success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where requests go. Credentials are not part of it: boto3 finds them."""

    region: str | None
    endpoint_url: str | None
    longest_wait: int
    """Seconds of a long poll."""


def address_of(
    queue_url: str, *, region: str | None, endpoint_url: str | None, wait: int
) -> Address:
    """Where requests about a queue go: what was given comes before what the URL says."""
    parts = urlsplit(queue_url)
    labels = (parts.hostname or "").split(".")
    if "amazonaws" not in labels:
        server = endpoint_url or f"{parts.scheme}://{parts.netloc}"
        return Address(region=region, endpoint_url=server, longest_wait=wait)
    # sqs.REGION.amazonaws.com, or NAME.sqs.REGION.vpce.amazonaws.com for an endpoint of a VPC.
    named = labels[labels.index("sqs") + 1] if "sqs" in labels else None
    if "vpce" in labels and endpoint_url is None:
        endpoint_url = f"{parts.scheme}://{parts.netloc}"
    return Address(
        region=region or (None if named == "amazonaws" else named),
        endpoint_url=endpoint_url,
        longest_wait=wait,
    )


class BotoSession:
    """Makes boto3 clients, reading the description of SQS's API once for all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._session: boto3.session.Session | None = None

    def client(self, address: Address) -> Any:
        """A client, which is safe in any thread. Raises ConfigurationError."""
        config = Config(
            connect_timeout=_CONNECT,
            read_timeout=address.longest_wait + DEADLINE,
            max_pool_connections=MOST_CALLS,
            # Who calls decides what is worth a second try, and resends are duplicates.
            retries={"total_max_attempts": 1},
            tcp_keepalive=True,
            # What is sent was checked here, against narrower limits.
            parameter_validation=False,
            # botocore puts its own together anew for every request, twice, which is a tenth of one.
            user_agent=f"jobbus Boto3/{boto3.__version__}",
        )
        try:
            with self._lock:  # sessions, unlike clients, are not safe in several threads
                self._session = session = self._session or boto3.session.Session()
                # AWS_REGION is what containers and the other SDKs go by; boto3 alone ignores it.
                surroundings = session.region_name or os.environ.get("AWS_REGION")
                region = address.region or surroundings or _LAST_RESORT
                return session.client(
                    "sqs", region_name=region, endpoint_url=address.endpoint_url, config=config
                )
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"boto3 cannot make an SQS client: {error}") from error


class Client:
    """One boto3 client, and the threads in which it is called."""

    def __init__(self, address: Address, session: BotoSession) -> None:
        self._address = address
        self._session = session
        self._boto: Any = None
        self._threads: Threads | None = None

    async def open(self) -> None:
        """Make the client, which looks for credentials but sends nothing to SQS."""
        self._threads = Threads("jobbus-sqs", MOST_CALLS)
        try:
            self._boto = await self._threads.run(lambda: self._session.client(self._address))
        except BaseException:
            self.close()
            raise

    def separate(self) -> Client:
        """Another one, unopened, with threads and connections of its own."""
        return Client(self._address, self._session)

    @property
    def is_open(self) -> bool:
        return self._boto is not None

    def check_open(self) -> None:
        """BackendUnavailable unless open."""
        if self._boto is None:
            raise BackendUnavailable("this SQS queue is not open")

    @property
    def threads(self) -> Threads:
        """For calls that are not awaited. BackendUnavailable when closed."""
        if self._threads is None or self._boto is None:
            raise BackendUnavailable("this SQS queue is not open")
        return self._threads

    def close(self) -> None:
        """Let go. Calls that are under way end by themselves, and the last closes the sockets."""
        threads, boto = self._threads, self._boto
        self._threads = self._boto = None
        if threads is not None:
            threads.close(boto.close if boto is not None else lambda: None)

    def bound(self) -> BlockingClient:
        """The same calls, blocking, for a thread; usable until that thread is done."""
        if self._boto is None:
            raise BackendUnavailable("this SQS queue is not open")
        return BlockingClient(self._boto)

    async def call(self, operation: str, what: str, **parameters: Any) -> dict[str, Any]:
        """One request's answer. BackendUnavailable also when there is none in time."""
        blocking = self.bound()
        return await self._in_time(partial(blocking.call, operation, what, **parameters), what)

    async def batch(
        self,
        operation: str,
        what: str,
        url: str,
        entries: Sequence[Entry],
        *,
        ordered: bool = False,
    ) -> list[Outcome]:
        """Each entry's outcome, of as many requests as it takes.

        With ``ordered``, requests follow one another, and none follows one that failed.
        """
        blocking = self.bound()
        calls = [
            (chunk, partial(self._chunk, blocking, operation, what, url, chunk))
            for chunk in chunks(entries)
        ]
        if not ordered:
            answers = await asyncio.gather(*(call() for _, call in calls))
            return [outcome for answer in answers for outcome in answer]
        outcomes: list[Outcome] = []
        for chunk, call in calls:
            if any(outcomes):
                outcomes += [BackendUnavailable(f"{what}: not sent after a failure")] * len(chunk)
            else:
                outcomes += await call()
        return outcomes

    async def _chunk(
        self,
        blocking: BlockingClient,
        operation: str,
        what: str,
        url: str,
        entries: Sequence[Entry],
    ) -> list[Outcome]:
        try:
            return await self._in_time(partial(blocking.batch, operation, what, url, entries), what)
        except BackendError as error:
            return [error] * len(entries)

    async def _in_time(self, call: Callable[[], T], what: str) -> T:
        try:
            async with asyncio.timeout(DEADLINE):
                return await self.threads.run(call)
        except TimeoutError as error:
            raise BackendUnavailable(f"{what}: no answer within {DEADLINE:g} s") from error


class BlockingClient:
    """The calls themselves. Safe in any thread, as boto3's clients are."""

    def __init__(self, boto: Any) -> None:
        self._boto = boto

    def call(self, operation: str, what: str, **parameters: Any) -> dict[str, Any]:
        """The answer. Raises BackendError and no other."""
        try:
            answer: dict[str, Any] = getattr(self._boto, operation)(**parameters)
        except Exception as error:  # whatever boto3 raises, some of it of the standard library's
            raise translated(error, what) from error
        return answer

    def batch(self, operation: str, what: str, url: str, entries: Sequence[Entry]) -> list[Outcome]:
        """Each entry's outcome, of one request of up to ten."""
        numbered = [{"Id": str(index), **entry} for index, entry in enumerate(entries)]
        answer = self.call(operation, what, QueueUrl=url, Entries=numbered)
        # Where SQS says nothing of an entry, nothing is known: that is a failure as well.
        silent = {"Code": "NoAnswer", "Message": "the answer does not mention this message"}
        told: dict[str, Outcome] = {
            one["Id"]: entry_failure(one, what) for one in answer.get("Failed", ())
        }
        told |= {one["Id"]: None for one in answer.get("Successful", ())}
        return [told.get(one["Id"], entry_failure(silent, what)) for one in numbered]


def chunks(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The entries in requests that SQS takes: ten at most, and a mebibyte in all."""
    chunk: list[Entry] = []
    room = MAX_BYTES
    for entry in entries:
        size = size_of(entry)
        if chunk and (len(chunk) == MAX_ENTRIES or size > room):
            yield chunk
            chunk, room = [], MAX_BYTES
        chunk.append(entry)
        room -= size
    if chunk:
        yield chunk


def size_of(entry: Entry) -> int:
    """Bytes that count: the body, and the names, types and values of attributes."""
    size = len(entry.get("MessageBody", ""))
    for name, value in entry.get("MessageAttributes", {}).items():
        text = name + value["DataType"] + value["StringValue"]
        size += len(text.encode("utf-8", "surrogatepass"))
    return size


def name_of(url: str) -> str:
    """The name of the queue that a URL ends with."""
    return urlsplit(url).path.rpartition("/")[2]
