"""One server for all tests that leave it as it was."""

from collections.abc import AsyncIterator, Iterator

import pytest

from icestream.runtime.triton import TritonModel
from tests.support.models import SLOW_CONFIG, add_model, length_model, mean_direction_model
from tests.support.triton_server import RunningTriton, running_triton


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "models"
    add_model(repository, "direction", mean_direction_model())
    add_model(repository, "slow", mean_direction_model(n_slow_products=20), config=SLOW_CONFIG)
    add_model(repository, "length", length_model())
    with running_triton(repository, folder / "work") as server:
        yield server


@pytest.fixture
async def model(triton: RunningTriton) -> AsyncIterator[TritonModel]:
    async with TritonModel(triton.target) as model:
        yield model
