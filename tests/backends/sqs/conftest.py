"""Credentials that no real account has, and queues of a test's own."""

from __future__ import annotations

import pytest

from jobbus.backends.aws_sqs.client import BotoSession
from tests.services.sqs import CREDENTIALS


@pytest.fixture(autouse=True)
def throw_away_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that boto3 looks no further, and never finds the developer's own."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="package")
def boto_session() -> BotoSession:
    """Reading what boto3 knows of SQS takes longer than most tests."""
    return BotoSession()
