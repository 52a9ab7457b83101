"""Finds the queues of SQS that stand for jobbus's queues, and what they can take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jobbus.errors import ConfigurationError
from jobbus.message import DEFAULT_QUEUE

from .client import Client, name_of
from .failures import NoSuchQueue
from .limits import MAX_BYTES, check_queue_name
from .receipts import Place

_SUFFIX: Final = ".fifo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """Which queue of jobbus's is which of SQS's.

    The queue ``default`` is the one whose URL was given. Every other one has a prefix in front of
    its name: that one's name and a hyphen, unless another was given.
    """

    queue_url: str
    dead_letter_queue_url: str | None
    prefix: str | None
    fifo: bool

    def name(self, queue: str) -> str:
        """The name in SQS. Raises Unsupported where SQS has no such names."""
        given = name_of(self.queue_url)
        if queue == DEFAULT_QUEUE:
            return check_queue_name(given)
        prefix = given.removesuffix(_SUFFIX) + "-" if self.prefix is None else self.prefix
        return check_queue_name(prefix + queue + (_SUFFIX if self.fifo else ""))

    def dead_letter_name(self) -> str:
        """The name of the dead-letter queue: as given, else that of the queue with ``-dlq``."""
        if self.dead_letter_queue_url:
            return check_queue_name(name_of(self.dead_letter_queue_url))
        plain = name_of(self.queue_url).removesuffix(_SUFFIX)
        return check_queue_name(f"{plain}-dlq{_SUFFIX if self.fifo else ''}")


class Places:
    """Looks each queue up once."""

    def __init__(self, client: Client, naming: Naming) -> None:
        self._client = client
        self._naming = naming
        self._found: dict[str, Place] = {}

    @property
    def fifo(self) -> bool:
        return self._naming.fifo

    def forget(self) -> None:
        """Look all of them up again when they are asked for."""
        self._found.clear()

    async def find(self, queue: str) -> Place:
        """The queue's place. Raises BackendError, naming the remedy, when there is none."""
        place = self._found.get(queue)
        if place is None:
            place = self._found[queue] = await self._look_up(queue)
        return place

    async def find_or_none(self, queue: str) -> Place | None:
        """The queue's place, or None when there is no such queue."""
        try:
            return await self.find(queue)
        except NoSuchQueue:
            return None

    async def url(self, queue: str) -> str:
        name = self._naming.name(queue)
        if queue == DEFAULT_QUEUE:
            return self._naming.queue_url
        answer = await self._client.call(
            "get_queue_url", f"looking for the queue {name}", QueueName=name
        )
        return str(answer["QueueUrl"])

    async def attributes(self, url: str, *names: str) -> Mapping[str, str]:
        """What SQS says of a queue."""
        answer = await self._client.call(
            "get_queue_attributes",
            f"asking about the queue {name_of(url)}",
            QueueUrl=url,
            AttributeNames=list(names),
        )
        found: dict[str, str] = answer.get("Attributes", {})
        return found

    async def dead_letters(self, place: Place) -> str:
        """The URL for what is set aside. Raises ConfigurationError where there is none."""
        if place.dead_letters is None:
            raise ConfigurationError(
                f"the SQS queue {name_of(place.url)} has nowhere for dead letters: set "
                "BACKGROUND_JOBS__AWSSQS__DEADLETTERQUEUEURL, or give the queue a redrive policy; "
                "`jobbus doctor --create` does both"
            )
        return place.dead_letters

    async def _look_up(self, queue: str) -> Place:
        url = await self.url(queue)
        said = await self.attributes(url, "All")
        fifo = said.get("FifoQueue") == "true"
        if fifo != self._naming.fifo:
            raise ConfigurationError(
                f"the SQS queue {name_of(url)} is {'a FIFO' if fifo else 'a standard'} queue, and "
                f"aws_sqs.use_fifo_queue says otherwise: set it to {str(fifo).lower()}"
            )
        return Place(
            queue=queue,
            url=url,
            fifo=fifo,
            largest=int(said.get("MaximumMessageSize", MAX_BYTES)),
            dead_letters=await self._dead_letters(queue, said),
        )

    async def _dead_letters(self, queue: str, said: Mapping[str, str]) -> str | None:
        """Where it is set; else where SQS redrives to; else where those of ``default`` go."""
        found = self._naming.dead_letter_queue_url or await self._target(said)
        if found is None and queue != DEFAULT_QUEUE:
            return (await self.find(DEFAULT_QUEUE)).dead_letters
        return found

    async def _target(self, said: Mapping[str, str]) -> str | None:
        """The URL of the queue to which SQS itself redrives."""
        arn = str(redrive_policy(said).get("deadLetterTargetArn", ""))
        if not arn:
            return None
        account, name = arn.split(":")[-2:]
        answer = await self._client.call(
            "get_queue_url",
            f"looking for the dead-letter queue {name}",
            QueueName=name,
            QueueOwnerAWSAccountId=account,
        )
        return str(answer["QueueUrl"])


def redrive_policy(said: Mapping[str, str]) -> dict[str, Any]:
    """The redrive policy among a queue's attributes; empty when it has none."""
    policy: dict[str, Any] = json.loads(said.get("RedrivePolicy") or "{}")
    return policy
