"""A broker for each test, a PostgreSQL for all of them, and both kinds of database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nats_server import NatsServer, running_nats_server
from tests.support.postgres import PostgresServer, running_postgres


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.sqlite"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()
