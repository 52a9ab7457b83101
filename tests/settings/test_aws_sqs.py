"""The settings of SQS: addresses, limits, contradictions, and that credentials are none of them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.errors import ConfigurationError
from jobbus.settings import create_queue
from tests.settings.conftest import Load

URL = "https://sqs.eu-north-1.amazonaws.com/123456789012/jobs"


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("sqs://sqs.eu-north-1.amazonaws.com/123456789012/jobs", URL),
        ("sqs://127.0.0.1:4566/000000000000/jobs", "http://127.0.0.1:4566/000000000000/jobs"),
        ("sqs+http://stack:4566/000000000000/jobs", "http://stack:4566/000000000000/jobs"),
        ("sqs://", None),
    ],
)
def test_an_address_chooses_the_queue(load: Load, address: str, url: str | None) -> None:
    settings = load({"backend": address})
    assert (settings.provider, settings.aws_sqs.queue_url) == ("aws_sqs", url)


def test_an_address_may_have_options(load: Load) -> None:
    settings = load(
        {"backend": "sqs://sqs.x/1/jobs?wait_time_seconds=7&DeadLetterQueueUrl=https://x/1/d"}
    )
    assert settings.aws_sqs.wait_time_seconds == 7
    assert settings.aws_sqs.dead_letter_queue_url == "https://x/1/d"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"queue_url": "jobs"}, "must be a URL such as"),
        ({"queue_url": "https://me:hunter2@x/1/jobs"}, "without credentials"),
        ({"wait_time_seconds": 21}, "must be a whole number from 0 to 20"),
        ({"max_number_of_messages": 11}, "must be a whole number from 1 to 10"),
        ({"queue_prefix": "a.b"}, "letters, digits, - and _"),
        ({"secret_access_key": "hunter2"}, "is no setting of jobbus"),
    ],
)
def test_a_wrong_value_is_refused_without_repeating_secrets(
    load: Load, overrides: Mapping[str, object], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        load({"aws_sqs": overrides})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, "set BACKGROUND_JOBS__AWSSQS__QUEUEURL"),
        ({"queue_url": URL, "use_fifo_queue": True}, "does not end in .fifo"),
    ],
)
def test_a_queue_that_cannot_be_is_refused_when_it_is_made(
    load: Load, overrides: Mapping[str, object], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        create_queue(load({"provider": "aws_sqs", "aws_sqs": overrides}))


def test_the_name_of_a_queue_says_that_it_is_a_fifo_queue(load: Load) -> None:
    queue = create_queue(load({"provider": "aws_sqs", "aws_sqs.queue_url": f"{URL}.fifo"}))
    assert isinstance(queue, AwsSqsQueue)
    assert queue.capabilities.ordered_groups
    assert not queue.capabilities.delays
