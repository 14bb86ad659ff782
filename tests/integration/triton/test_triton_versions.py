"""A new version is served without a restart and without a failed request."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from icestream.ports import CallOptions, ModelOutput
from icestream.runtime.triton import TritonModel
from tests.support.eventually import eventually
from tests.support.models import add_model, mean_direction_model, random_batch
from tests.support.triton_server import RunningTriton, running_triton

EVENT = random_batch(np.random.default_rng(1), n_events=1, length=16)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningTriton]:
    repository = tmp_path / "models"
    add_model(repository, "direction", mean_direction_model())
    with running_triton(repository, tmp_path / "work") as server:
        yield server


@asynccontextmanager
async def traffic(server: RunningTriton) -> AsyncIterator[list[ModelOutput]]:
    """Ask all the time; a failed request fails the test."""
    answers: list[ModelOutput] = []

    async def ask_for_ever(model: TritonModel) -> None:
        while True:
            answers.append(await model.infer("direction", EVENT, CallOptions()))

    async with TritonModel(server.target) as model, asyncio.TaskGroup() as group:
        askers = [group.create_task(ask_for_ever(model)) for _ in range(4)]
        yield answers
        for asker in askers:
            assert not asker.done()
            asker.cancel()


def scales_in(answers: list[ModelOutput]) -> set[tuple[str, int]]:
    """Which version said so, and by the values, which version computed."""
    total_charge = float(EVENT.pulses[:, :, 4].sum())
    return {(answer.model.version, round(float(answer.kappa[0, 0]) / total_charge)) for answer in answers}


async def test_a_new_version_takes_over_under_traffic(server: RunningTriton) -> None:
    async with traffic(server) as answers:
        await eventually(lambda: answers)
        add_model(server.model_repository, "direction", mean_direction_model(kappa_scale=2), version=2)
        await eventually(lambda: answers[-1].model.version == "2", timeout_s=30)
    assert scales_in(answers) == {("1", 1), ("2", 2)}


async def test_the_version_before_can_still_be_asked(server: RunningTriton) -> None:
    add_model(server.model_repository, "direction", mean_direction_model(kappa_scale=2), version=2)
    inputs = {"pulses": EVENT.pulses, "lengths": EVENT.lengths}
    async with TritonModel(server.target) as model:

        async def is_new() -> bool:
            return (await model.infer("direction", EVENT, CallOptions())).model.version == "2"

        await eventually(is_new, timeout_s=30)
        answer = await model.infer_tensors("direction", inputs, CallOptions(), version="1")
    assert answer.model.version == "1"


async def test_a_half_copied_version_breaks_nothing_and_is_served_when_it_is_whole(
    server: RunningTriton, tmp_path: Path
) -> None:
    whole = add_model(
        tmp_path / "elsewhere/models", "direction", mean_direction_model(kappa_scale=2), version=2
    )
    content = (whole / "model.onnx").read_bytes()
    copy = server.model_repository / "direction/2"
    async with traffic(server) as answers:
        copy.mkdir()
        (copy / "model.onnx").write_bytes(content[: len(content) // 2])
        await eventually(
            lambda: "failed to load 'direction' version 2" in server.log.read_text(), timeout_s=30
        )
        n_before = len(answers)
        await eventually(lambda: len(answers) > n_before + 10)
        (copy / "model.onnx").write_bytes(content)
        await eventually(lambda: answers[-1].model.version == "2", timeout_s=30)
    assert scales_in(answers) == {("1", 1), ("2", 2)}
