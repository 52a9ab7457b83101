"""A look-alike of Amazon SQS to measure against, and a count of the requests that it gets."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

REGION: Final = "us-east-1"
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
_PATIENCE: Final = 30


@contextmanager
def queues() -> Iterator[str]:
    """The address of an empty queue with a dead-letter queue, on a server of its own."""
    os.environ.update(CREDENTIALS)
    port = _free_port()
    program = shutil.which("ministack", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        raise SystemExit("to measure SQS, install the Python package ministack")
    with subprocess.Popen(
        [program],
        env={**os.environ, "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            yield _made(port, f"bench-{uuid4().hex[:8]}")
        finally:
            server.terminate()


def client(endpoint: str) -> Any:
    """A plain boto3 client."""
    import boto3.session

    return boto3.session.Session().client("sqs", endpoint_url=endpoint, region_name=REGION)


def split(address: str) -> tuple[str, str]:
    """The endpoint and the queue's URL in an ``sqs://`` address."""
    place = address.removeprefix("sqs://").partition("?")[0]
    return f"http://{place.partition('/')[0]}", f"http://{place}"


def counting_requests() -> Callable[[], int]:
    """Count every request of botocore's in this process from now on; returns how to read it."""
    from botocore.endpoint import Endpoint

    number = 0
    original = Endpoint.make_request

    def counted(self: Any, *arguments: Any) -> Any:
        nonlocal number
        number += 1
        return original(self, *arguments)

    Endpoint.make_request = counted
    return lambda: number


def _made(port: int, name: str) -> str:
    endpoint = f"http://127.0.0.1:{port}"
    boto, deadline = client(endpoint), time.monotonic() + _PATIENCE
    while True:
        try:
            dead_letters = boto.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
            break
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    boto.create_queue(QueueName=name)
    query = f"region={REGION}&dead_letter_queue_url={dead_letters}"
    return f"sqs://127.0.0.1:{port}/000000000000/{name}?{query}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
