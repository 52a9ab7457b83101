"""The part of SQS that jobbus uses, over HTTP, with every freedom that SQS takes.

Stale receipts that "succeed" and delete nothing, answers that get lost, batches that fail in part,
messages delivered twice, throttling. What goes wrong is arranged by the test, call by call.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Final

MAX_SIZE: Final = "1048576"
Answer = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """An error answer: of a whole call, or of one entry of a batch."""

    code: str
    status: int = 400
    sender: bool = True


LOST: Final = Failure("lost", status=0)
"""The call is carried out, and its answer never arrives."""
THROTTLED: Final = Failure("RequestThrottled", status=400, sender=False)
BROKEN: Final = Failure("InternalError", status=500, sender=False)


@dataclass
class Stored:
    """A message as the server has it."""

    id: str
    sent: Mapping[str, Any]
    sent_at: float
    visible_at: float
    receipt: str = ""
    receives: int = 0
    first_received: float = 0.0


@dataclass
class FakeSqs:
    """The state of the server, and what it is told to do wrong."""

    queues: dict[str, list[Stored]] = field(default_factory=lambda: defaultdict(list))
    attributes: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    calls: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """Every call so far: the operation and its parameters."""
    failures: dict[str, deque[Failure | None]] = field(default_factory=lambda: defaultdict(deque))
    """For the next calls of an operation, in order; None lets one pass."""
    entry_failures: dict[str, dict[int, Failure]] = field(default_factory=dict)
    """For the next batch of an operation, by the entry's position."""
    endpoint: str = ""
    lock: threading.Condition = field(default_factory=threading.Condition)
    numbers: Iterator[int] = field(default_factory=count)

    def url(self, name: str) -> str:
        return f"{self.endpoint}/000000000000/{name}"

    def calls_of(self, operation: str) -> list[Mapping[str, Any]]:
        return [parameters for called, parameters in self.calls if called == operation]

    def entries_of(self, operation: str) -> list[Mapping[str, Any]]:
        return [one for call in self.calls_of(operation) for one in call["Entries"]]

    def put(self, name: str, sent: Mapping[str, Any]) -> Stored:
        """A message that somebody else sent."""
        with self.lock:
            stored = Stored(
                id=f"message-{next(self.numbers)}",
                sent=sent,
                sent_at=time.time(),
                visible_at=time.time() + float(sent.get("DelaySeconds", 0)),
            )
            self.queues[name].append(stored)
            self.lock.notify_all()
            return stored

    def show(self, name: str) -> None:
        """Make all messages of a queue visible, in other hands or not."""
        with self.lock:
            for stored in self.queues[name]:
                stored.visible_at = 0
            self.lock.notify_all()

    def answer(self, operation: str, given: Mapping[str, Any]) -> Answer | Failure:
        with self.lock:
            self.calls.append((operation, given))
            planned = self.failures[operation]
            failure = planned.popleft() if planned else None
            self.lock.notify_all()
        if failure is not None and failure is not LOST:
            return failure
        act: Callable[[Mapping[str, Any]], Answer | Failure] = getattr(self, f"_{operation}")
        answered = act(given)
        return LOST if failure is LOST else answered

    def _name(self, given: Mapping[str, Any]) -> str:
        return str(given["QueueUrl"]).rpartition("/")[2]

    def _GetQueueUrl(self, given: Mapping[str, Any]) -> Answer | Failure:
        if given["QueueName"] not in self.queues:
            return Failure("QueueDoesNotExist")
        return {"QueueUrl": self.url(given["QueueName"])}

    def _GetQueueAttributes(self, given: Mapping[str, Any]) -> Answer | Failure:
        name = self._name(given)
        if name not in self.queues:
            return Failure("QueueDoesNotExist")
        fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        # Approximately: a minute late, as they may be.
        counts = {"ApproximateNumberOfMessages": "7"}
        known = {"MaximumMessageSize": MAX_SIZE, **fifo, **counts, **self.attributes[name]}
        return {"Attributes": known}

    def _SendMessageBatch(self, given: Mapping[str, Any]) -> Answer:
        return self._each("SendMessageBatch", given, lambda one: self._sent(given, one))

    def _sent(self, given: Mapping[str, Any], one: Mapping[str, Any]) -> Answer:
        stored = self.put(self._name(given), one)
        return {"MessageId": stored.id, "MD5OfMessageBody": ""}

    def _ReceiveMessage(self, given: Mapping[str, Any]) -> Answer:
        deadline = time.time() + given["WaitTimeSeconds"]
        with self.lock:
            while not (found := self._visible(given)) and (left := deadline - time.time()) > 0:
                self.lock.wait(min(left, 0.05))
            return {"Messages": [self._handed_out(one, given) for one in found]} if found else {}

    def _visible(self, given: Mapping[str, Any]) -> list[Stored]:
        now = time.time()
        ready = [one for one in self.queues[self._name(given)] if one.visible_at <= now]
        return ready[: given["MaxNumberOfMessages"]]

    def _handed_out(self, stored: Stored, given: Mapping[str, Any]) -> Answer:
        stored.receives += 1
        stored.receipt = f"{stored.id}/{stored.receives}"
        stored.visible_at = time.time() + given["VisibilityTimeout"]
        stored.first_received = stored.first_received or time.time()
        return {
            "MessageId": stored.id,
            "ReceiptHandle": stored.receipt,
            "Body": stored.sent["MessageBody"],
            "Attributes": {
                "ApproximateReceiveCount": str(stored.receives),
                "SentTimestamp": str(int(stored.sent_at * 1000)),
                "ApproximateFirstReceiveTimestamp": str(int(stored.first_received * 1000)),
            },
        }

    def _DeleteMessageBatch(self, given: Mapping[str, Any]) -> Answer:
        return self._each("DeleteMessageBatch", given, lambda one: self._deleted(given, one))

    def _deleted(self, given: Mapping[str, Any], one: Mapping[str, Any]) -> Answer:
        # A stale receipt "succeeds", and the message stays.
        stored = self._of(given, one)
        if stored is not None:
            self.queues[self._name(given)].remove(stored)
        return {}

    def _ChangeMessageVisibilityBatch(self, given: Mapping[str, Any]) -> Answer:
        def hide(one: Mapping[str, Any]) -> Answer | Failure:
            stored = self._of(given, one)
            if stored is None:
                return Failure("ReceiptHandleIsInvalid")
            stored.visible_at = time.time() + one["VisibilityTimeout"]
            self.lock.notify_all()
            return {}

        return self._each("ChangeMessageVisibilityBatch", given, hide)

    def _of(self, given: Mapping[str, Any], one: Mapping[str, Any]) -> Stored | None:
        there = self.queues[self._name(given)]
        return next((each for each in there if each.receipt == one["ReceiptHandle"]), None)

    def _each(
        self,
        operation: str,
        given: Mapping[str, Any],
        act: Callable[[Mapping[str, Any]], Answer | Failure],
    ) -> Answer:
        planned = self.entry_failures.pop(operation, {})
        good, bad = [], []
        with self.lock:
            for position, one in enumerate(given["Entries"]):
                outcome = planned.get(position) or act(one)
                if isinstance(outcome, Failure):
                    said = {"Code": outcome.code, "SenderFault": outcome.sender, "Message": "no"}
                    bad.append({"Id": one["Id"], **said})
                else:
                    good.append({"Id": one["Id"], **outcome})
        return {"Successful": good, "Failed": bad}


@contextmanager
def fake_sqs(*names: str) -> Iterator[FakeSqs]:
    """A server with these queues, listening on a port of its own."""
    fake = FakeSqs()
    for name in names:
        fake.queues[name] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            operation = self.headers["X-Amz-Target"].rpartition(".")[2]
            answered = fake.answer(operation, given)
            if answered is LOST:
                self.close_connection = True
                self.connection.shutdown(2)
                return
            if isinstance(answered, Failure):
                body = {"__type": f"com.amazonaws.sqs#{answered.code}", "message": "no"}
                self._send(answered.status, body)
            else:
                self._send(200, answered)

        def _send(self, status: int, answer: Mapping[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing: what was asked is in ``calls``."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    serving.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        serving.join(5)
