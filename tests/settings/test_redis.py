"""Where the Redis is: every way to say it, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from jobbus.backends.redis_store.options import RedisOptions
from jobbus.backends.sqlite import SqliteQueue
from jobbus.errors import ConfigurationError
from jobbus.settings import create_queue
from tests.settings.conftest import Load

REDIS = {"BACKGROUND_JOBS__PROVIDER": "redis"}


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"BACKGROUND_JOBS__REDIS__URL": "redis://a/1", "REDIS_URL": "redis://b"}, "redis://a/1"),
        ({"JOBBUS_BACKEND": "redis://c:1/2", "REDIS_HOST": "d"}, "redis://c:1/2"),
        ({"REDIS_URL": "rediss://e:6380/0", "REDIS_HOST": "d"}, "rediss://e:6380/0"),
        ({"REDIS_HOST": "d"}, "redis://d:6379/0"),
        ({"REDIS_PASSWORD": "p@ss:/w"}, "redis://:p%40ss%3A%2Fw@localhost:6379/0"),
        (
            {"REDIS_HOST": "::1", "REDIS_PORT": "7", "REDIS_PASSWORD": "x", "REDIS_DB": "3"},
            "redis://:x@[::1]:7/3",
        ),
        (
            {"BACKGROUND_JOBS__REDIS__HOST": "f", "REDIS_HOST": "d", "REDIS_PORT": "9"},
            "redis://f:6379/0",
        ),
        ({"JOBBUS_BACKEND": "redis+sentinel://a:1,b/main"}, "redis+sentinel://a:1,b/main"),
        ({"JOBBUS_BACKEND": "rediss+sentinel://a/main"}, "rediss+sentinel://a/main"),
    ],
)
def test_the_address_is_the_first_that_is_said(
    load: Load, environ: Mapping[str, str], url: str
) -> None:
    assert RedisOptions.from_settings(load(environ={**REDIS, **environ})).url == url


def test_a_redis_that_a_program_has_for_something_else_carries_no_jobs(load: Load) -> None:
    settings = load(environ={"REDIS_URL": "redis://cache", "REDIS_HOST": "cache"})
    assert settings.provider == "sqlite"
    assert type(create_queue(settings)) is SqliteQueue


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"url": "http://a"}, "redis.url must begin with redis://"),
        ({"prefix": "a{b}"}, "redis.prefix is 1 to 64 of the characters"),
        ({"allow_volatile": "perhaps"}, "redis.allow_volatile must be true or false"),
        ({"max_connections": "many"}, "redis.max_connections must be a number"),
        ({"max_connections": "1"}, "redis.max_connections must be at least 2"),
        ({"timeout_seconds": "0"}, "redis.timeout_seconds above 0"),
        ({"colour": "red"}, "redis has no setting colour"),
        ({"url": "redis://a", "host": "b"}, "redis.url and redis.host are both set"),
        ({"host": "b", "port": "x"}, "redis.port must be a number"),
        ({"url": "rediss://a?ssl_cert_reqs=none"}, "only to servers that prove who they are"),
        ({"url": "rediss://a?ssl_check_hostname=false"}, "only to servers that prove"),
        ({"url": "redis+sentinel://a:26379"}, "a Sentinel address names hosts and service"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(
    load: Load, given: Mapping[str, str], sentence: str
) -> None:
    settings = load({"provider": "redis", "redis": given})
    with pytest.raises(ConfigurationError, match=sentence):
        create_queue(settings)


def test_a_password_is_not_shown(load: Load) -> None:
    settings = load(environ={**REDIS, "REDIS_PASSWORD": "hush", "REDIS_HOST": "h"})
    options = RedisOptions.from_settings(settings)
    assert "hush" not in repr(settings) + repr(settings.table()) + repr(options)
    assert options.location == "redis://h:6379/0"


def test_an_address_of_sentinels_names_them_and_their_service() -> None:
    options = RedisOptions(url="redis+sentinel://me:pw@a:1,b,[::1]:3/main/5")
    sentinels = options.sentinels
    assert sentinels is not None
    assert sentinels.hosts == (("a", 1), ("b", 26379), ("::1", 3))
    assert sentinels.service == "main"
    assert options.plain_url == "redis://me:pw@sentinel/5"
