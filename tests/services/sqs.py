"""Look-alikes of Amazon SQS: ministack for everything, moto for its strict limits."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3.session

from tests.services.programs import Scratch, await_answer, end, free_port, scratch
from tests.services.report import ServiceMissing

ADDRESS_VARIABLE: Final = "TEST_SQS_ENDPOINT"
STANDARD_ADDRESS: Final = "http://127.0.0.1:4566"
REGION: Final = "us-east-1"
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsServer:
    """A server that speaks SQS's protocol and forgets everything when it ends."""

    endpoint: str
    how: str
    client: Any
    """A plain boto3 client, to look and to interfere beside the queue under test."""

    @classmethod
    def at(cls, endpoint: str, how: str) -> SqsServer:
        client = boto3.session.Session().client(
            "sqs",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )
        return cls(endpoint=endpoint, how=how, client=client)


@contextmanager
def default_sqs() -> Iterator[SqsServer]:
    """The first server to be had. Raises :class:`ServiceMissing` naming what is missing."""
    address = os.environ.get(ADDRESS_VARIABLE)
    if address:
        _ask(address)
        yield SqsServer.at(address, f"from {ADDRESS_VARIABLE}")
        return
    try:
        _ask(STANDARD_ADDRESS)
    except OSError:
        with _started("ministack", lambda port: ({"GATEWAY_PORT": str(port)}, ())) as server:
            yield server
    else:
        yield SqsServer.at(STANDARD_ADDRESS, f"answering on {STANDARD_ADDRESS}")


@contextmanager
def strict_sqs() -> Iterator[SqsServer]:
    """Moto's server: slow, wrong in places, and strict about limits."""
    with _started("moto_server", lambda port: ({}, ("-H", "127.0.0.1", "-p", str(port)))) as server:
        yield server


@contextmanager
def fresh_queues(
    server: SqsServer, names: Sequence[str], *, fifo: bool = False
) -> Iterator[dict[str, str]]:
    """Queues of one's own with a dead-letter queue: URLs by name, deleted at the end."""
    client, prefix = server.client, f"test-{secrets.token_hex(6)}"
    suffix = ".fifo" if fifo else ""
    attributes = {"FifoQueue": "true"} if fifo else {}
    urls: dict[str, str] = {}
    try:
        for name in ("dlq", *names):
            made = client.create_queue(
                QueueName=prefix + ("" if name == "default" else f"-{name}") + suffix,
                Attributes=attributes,
            )
            urls[name] = made["QueueUrl"]
        yield urls
    finally:
        for url in urls.values():
            client.delete_queue(QueueUrl=url)


@contextmanager
def _started(program: str, options: Any) -> Iterator[SqsServer]:
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        raise ServiceMissing(f"the Python package of {program} is not installed")
    port = free_port()
    environment, arguments = options(port)
    with scratch("sqs") as place:
        # As ourselves: the virtual environment may be closed to the servers' account.
        own = Scratch(place.folder, None)
        variables = {"BIND_HOST": "127.0.0.1", **CREDENTIALS, **environment}
        command = ["env", *(f"{name}={value}" for name, value in variables.items()), found]
        log = place.folder / "server.log"
        process = own.start([*command, *arguments], log=log)
        endpoint = f"http://127.0.0.1:{port}"
        try:
            await_answer(process, lambda: _ask(endpoint), unless=OSError, log=log)
            yield SqsServer.at(endpoint, f"{program} started on a free port")
        finally:
            end(process, {signal.SIGTERM: 0.5, signal.SIGKILL: 5})


def _ask(endpoint: str) -> None:
    """Raise OSError unless SQS answers there."""
    request = urllib.request.Request(  # noqa: S310  # a loopback address, or the tester's own
        endpoint,
        data=json.dumps({}).encode(),
        headers={
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": "AmazonSQS.ListQueues",
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20240101/us-east-1/sqs/aws4_request",
        },
    )
    try:
        urllib.request.urlopen(request, timeout=5).close()  # noqa: S310  # as above
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"{endpoint} answers, but not as SQS: {error}") from error
