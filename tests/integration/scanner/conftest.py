"""A server for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nats_server import NatsServer, running_nats_server


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats_server(tmp_path / "nats") as server:
        yield server
