"""Makes the queues that are missing in SQS, and says what is doubtful about the others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from jobbus.errors import ConfigurationError

from .client import Client, name_of
from .failures import NoSuchQueue
from .limits import MAX_BYTES, MAX_RETENTION
from .places import Naming, Places, redrive_policy

_FOUR_DAYS: Final = 4 * 86_400
_FOURTEEN_DAYS: Final = int(MAX_RETENTION.total_seconds())
"""A standard queue's dead letters keep the age they had."""


class Provisioning:
    """For an operator: workers and producers need none of these permissions."""

    def __init__(
        self,
        client: Client,
        places: Places,
        naming: Naming,
        *,
        queues: Sequence[str],
        max_receive_count: int,
    ) -> None:
        self._client = client
        self._places = places
        self._naming = naming
        self._queues = queues
        self._max_receive_count = max_receive_count

    async def create(self) -> list[str]:
        """Make what is missing; return what was made. What is there stays as it is."""
        made: list[str] = []
        dead_letters, new = await self._create(self._naming.dead_letter_name(), _FOURTEEN_DAYS, {})
        self._check(dead_letters, self._naming.dead_letter_queue_url)
        made += [f"dead-letter queue {name_of(dead_letters)}"] * new
        said = await self._places.attributes(dead_letters, "QueueArn")
        policy = json.dumps(
            {
                "deadLetterTargetArn": said["QueueArn"],
                "maxReceiveCount": str(self._max_receive_count),
            }
        )
        for queue in self._queues:
            name = self._naming.name(queue)
            url, new = await self._create(name, _FOUR_DAYS, {"RedrivePolicy": policy})
            if queue == "default":
                self._check(url, self._naming.queue_url)
            if new:
                made.append(f"queue {name}")
            elif not redrive_policy(await self._places.attributes(url, "RedrivePolicy")):
                await self._client.call(
                    "set_queue_attributes",
                    f"giving {name} a redrive policy",
                    QueueUrl=url,
                    Attributes={"RedrivePolicy": policy},
                )
                made.append(f"redrive policy of {name}")
        self._places.forget()
        return made

    async def warnings(self) -> list[str]:
        """What works and will surprise somebody; each with its remedy."""
        found = []
        for queue in self._queues:
            place = await self._places.find(queue)
            said = await self._places.attributes(place.url, "All")
            found += [each async for each in self._doubts(name_of(place.url), said)]
        url = urlsplit(self._naming.queue_url)
        if url.scheme == "http" and url.hostname not in ("127.0.0.1", "::1", "localhost"):
            found.append("messages travel unencrypted: give aws_sqs.queue_url as https://")
        return found

    async def _doubts(self, name: str, said: Mapping[str, str]) -> AsyncIterator[str]:
        policy = redrive_policy(said)
        if not policy:
            yield (
                f"{name} has no redrive policy: a message that no worker can settle goes round "
                "until it is too old; `jobbus doctor --create` adds one"
            )
        elif int(policy.get("maxReceiveCount", 0)) < self._max_receive_count:
            yield (
                f"the redrive policy of {name} gives up after {policy.get('maxReceiveCount')} "
                "receives, which jobs that are handed back or interrupted use up as well: set "
                f"maxReceiveCount to {self._max_receive_count} or more"
            )
        if int(said.get("MaximumMessageSize", MAX_BYTES)) < MAX_BYTES:
            yield (
                f"{name} takes messages of {int(said['MaximumMessageSize']):,} bytes at most: "
                f"MaximumMessageSize may be {MAX_BYTES:,}"
            )
        dead_letters = (await self._places.find("default")).dead_letters
        if dead_letters is None:
            return
        kept = int(said.get("MessageRetentionPeriod", _FOUR_DAYS))
        dead = await self._places.attributes(dead_letters, "MessageRetentionPeriod")
        if int(dead.get("MessageRetentionPeriod", _FOUR_DAYS)) <= kept:
            yield (
                f"{name_of(dead_letters)} keeps messages no longer than {name}, and a dead letter "
                "moved by SQS keeps its age: set its MessageRetentionPeriod to 1209600 (14 days)"
            )

    async def _create(
        self, name: str, retention: int, attributes: Mapping[str, str]
    ) -> tuple[str, bool]:
        """The queue's URL, and whether it is new."""
        try:
            found = await self._client.call(
                "get_queue_url", f"looking for the queue {name}", QueueName=name
            )
            return str(found["QueueUrl"]), False
        except NoSuchQueue:
            wanted = {
                "MessageRetentionPeriod": str(retention),
                "ReceiveMessageWaitTimeSeconds": "20",
                "VisibilityTimeout": "60",
                **attributes,
            }
            if self._naming.fifo:
                wanted["FifoQueue"] = "true"
            made = await self._client.call(
                "create_queue", f"making the queue {name}", QueueName=name, Attributes=wanted
            )
            return str(made["QueueUrl"]), True

    def _check(self, url: str, wanted: str | None) -> None:
        """These credentials may belong to another account than the one in the settings."""
        if wanted is not None and urlsplit(url).path != urlsplit(wanted).path:
            raise ConfigurationError(
                f"the queue is {url} for these credentials, and the settings say {wanted}: use "
                "credentials of that account, or correct the setting"
            )
