"""One stack for all end-to-end tests: it survives everything that they do to it, which is the point."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import UpStack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpStack]:
    with running_stack(tmp_path_factory.mktemp("stack"), "--trace-ratio", "0") as running:
        yield running


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "program.log"
