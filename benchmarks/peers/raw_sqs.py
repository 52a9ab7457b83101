"""The raw boto3 loop at its best: receive ten, delete ten in one batch; it keeps nothing."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell
from benchmarks.sqs import client, counting_requests, split

BODY = json.dumps(PAYLOAD)


def fill(sqs: Any, url: str, jobs: int) -> None:
    for _ in range(jobs // 10):
        entries = [{"Id": str(index), "MessageBody": BODY} for index in range(10)]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)


async def enqueue(case: Case) -> None:
    endpoint, url = split(case.url)
    sqs, watch = client(endpoint), Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs):
            sqs.send_message(QueueUrl=url, MessageBody=BODY)
    tell(rate_answer(watch))


async def bulk(case: Case) -> None:
    endpoint, url = split(case.url)
    sqs, watch = client(endpoint), Stopwatch(case)
    with watch.running():
        fill(sqs, url, case.jobs)
    tell(rate_answer(watch))


async def drain(case: Case) -> None:
    endpoint, url = split(case.url)
    sqs, watch = client(endpoint), Stopwatch(case)
    fill(sqs, url, case.jobs)
    requests, done = counting_requests(), 0
    with watch.running():
        while done < case.jobs:
            answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=20)
            found = answer.get("Messages", [])
            for one in found:
                json.loads(one["Body"])
            entries = [
                {"Id": str(index), "ReceiptHandle": one["ReceiptHandle"]}
                for index, one in enumerate(found)
            ]
            sqs.delete_message_batch(QueueUrl=url, Entries=entries)
            done += len(found)
    tell({**rate_answer(watch), "requests_per_job": requests() / case.jobs})


async def latency(case: Case) -> None:
    """Pick-up by a long poll that waits already, in another thread, as the producer sends."""
    from concurrent.futures import ThreadPoolExecutor

    endpoint, url = split(case.url)
    worker, producer, seconds = client(endpoint), client(endpoint), []

    def receive() -> float:
        answer = worker.receive_message(QueueUrl=url, WaitTimeSeconds=20)
        at = time.perf_counter()
        for one in answer.get("Messages", []):
            worker.delete_message(QueueUrl=url, ReceiptHandle=one["ReceiptHandle"])
        return at

    with ThreadPoolExecutor(1) as threads:
        for _ in range(case.jobs + WARM_UP):
            picked = threads.submit(receive)
            await asyncio.sleep(0.02)
            sent = time.perf_counter()
            producer.send_message(QueueUrl=url, MessageBody=json.dumps({"id": uuid4().hex}))
            seconds.append(picked.result() - sent)
    tell(latency_answer(seconds))
