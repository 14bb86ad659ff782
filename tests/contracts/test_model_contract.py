"""What the router relies on in any `icestream.ports.Model`, asked of the fake and of the real one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from icestream.errors import DeadlineExceeded, ModelFailed, ModelUnavailable, UnknownModel
from icestream.physics.events import ModelVersion
from icestream.physics.features import pad_batch
from icestream.ports import CallOptions, Model, ModelInput
from icestream.runtime.triton import TritonModel
from tests.support.fake_model import FakeModel, mean_directions
from tests.support.models import POISON_LENGTH, SLOW_CONFIG, add_model, mean_direction_model, random_batch
from tests.support.triton_server import free_ports, running_triton

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SHORTER_THAN_A_SLOW_RUN_S = 0.02


@dataclass(frozen=True)
class Models:
    """One kind of model in each of its states."""

    well: Model
    """Serves `direction`."""
    slow: Model
    """Serves `slow`, which takes its time."""
    away: Model


@asynccontextmanager
async def fakes() -> AsyncIterator[Models]:
    slow, away = FakeModel("slow"), FakeModel()
    slow.hold()
    away.failure = ModelUnavailable("gone")
    yield Models(FakeModel(), slow, away)


@pytest.fixture(scope="module")
def triton_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "models"
    add_model(repository, "direction", mean_direction_model())
    add_model(repository, "slow", mean_direction_model(n_slow_products=20), config=SLOW_CONFIG)
    with running_triton(repository, folder / "work") as server:
        yield server.target


@asynccontextmanager
async def real(target: str) -> AsyncIterator[Models]:
    nobody = f"127.0.0.1:{free_ports().grpc}"
    async with TritonModel(target) as model, TritonModel(nobody) as away:
        yield Models(model, model, away)


@pytest.fixture(params=["fake", "triton"])
async def models(request: pytest.FixtureRequest) -> AsyncIterator[Models]:
    is_fake = request.param == "fake"
    async with fakes() if is_fake else real(request.getfixturevalue("triton_target")) as models:
        yield models


def batch_of(n_events: int = 3, *, length: int = 16, seed: int = 1) -> ModelInput:
    return random_batch(np.random.default_rng(seed), n_events=n_events, length=length)


@pytest.mark.parametrize(("n_events", "length"), [(1, 16), (8, 16), (3, 128)])
async def test_every_row_is_answered_in_order(models: Models, n_events: int, length: int) -> None:
    batch = batch_of(n_events, length=length)
    output = await models.well.infer("direction", batch, CallOptions())
    assert output.direction.shape == (n_events, 3)
    assert output.kappa.shape == (n_events, 1)
    assert output.error_radii_rad.shape == (n_events, 2)
    np.testing.assert_allclose(output.direction, mean_directions(batch.pulses), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(output.direction, axis=1), 1.0, atol=1e-5)


async def test_answers_are_single_precision(models: Models) -> None:
    output = await models.well.infer("direction", batch_of(), CallOptions())
    assert {output.direction.dtype, output.kappa.dtype, output.error_radii_rad.dtype} == {
        np.dtype(np.float32)
    }


async def test_an_answer_says_whose_it_is(models: Models) -> None:
    output = await models.well.infer("direction", batch_of(), CallOptions())
    assert output.model == ModelVersion("direction", "1")


async def test_neither_padding_nor_neighbours_change_an_answer(models: Models) -> None:
    first, second = batch_of(1, length=5).pulses[0], batch_of(1, length=40, seed=2).pulses[0]
    alone = await models.well.infer("direction", ModelInput(*pad_batch([first], [5], 16)), CallOptions())
    together = await models.well.infer(
        "direction", ModelInput(*pad_batch([first, second], [5, 40], 48)), CallOptions()
    )
    np.testing.assert_allclose(together.direction[0], alone.direction[0], atol=1e-6)
    np.testing.assert_allclose(together.kappa[0], alone.kappa[0], rtol=1e-5)


async def test_requests_at_the_same_time_get_their_own_answers(models: Models) -> None:
    batches = [batch_of(n, length=16 * n, seed=n) for n in (1, 2, 3, 4)]
    outputs = await asyncio.gather(
        *(models.well.infer("direction", batch, CallOptions()) for batch in batches)
    )
    for output, batch in zip(outputs, batches, strict=True):
        np.testing.assert_allclose(output.direction, mean_directions(batch.pulses), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        CallOptions(is_urgent=True),
        CallOptions(traceparents=[SAMPLED]),
        CallOptions(traceparents=[SAMPLED, SAMPLED]),
    ],
)
async def test_urgency_and_traces_change_no_answer(models: Models, options: CallOptions) -> None:
    batch = batch_of()
    output = await models.well.infer("direction", batch, options)
    np.testing.assert_allclose(output.direction, mean_directions(batch.pulses), atol=1e-5)


async def test_an_unknown_model_is_named(models: Models) -> None:
    with pytest.raises(UnknownModel, match="energy") as unknown:
        await models.well.infer("energy", batch_of(), CallOptions())
    assert "direction" in unknown.value.available


async def test_a_poison_event_fails_its_batch_and_nothing_else(models: Models) -> None:
    batch = batch_of()
    poisoned = ModelInput(batch.pulses, np.array([[3], [POISON_LENGTH], [3]], np.int32))
    with pytest.raises(ModelFailed):
        await models.well.infer("direction", poisoned, CallOptions())
    await models.well.infer("direction", batch, CallOptions())


async def test_a_call_ends_when_its_time_is_up(models: Models) -> None:
    with pytest.raises(DeadlineExceeded):
        await models.slow.infer("slow", batch_of(), CallOptions(timeout_s=SHORTER_THAN_A_SLOW_RUN_S))


async def test_a_server_that_is_away_is_unavailable(models: Models) -> None:
    with pytest.raises(ModelUnavailable):
        await models.away.infer("direction", batch_of(), CallOptions(timeout_s=5.0))
