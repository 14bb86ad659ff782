"""What comes through Triton is what onnxruntime computes."""

import asyncio

import numpy as np
import pytest

from icestream.physics.events import ModelVersion
from icestream.physics.features import pad_batch
from icestream.ports import CallOptions, ModelInput, ModelOutput
from icestream.runtime.triton import TritonModel
from tests.support.models import mean_direction_model, random_batch, run_in_process
from tests.support.triton_server import RunningTriton


def assert_same_as_in_process(answer: ModelOutput, batch: ModelInput) -> None:
    expected = run_in_process(mean_direction_model(), batch)
    np.testing.assert_allclose(answer.direction, expected["direction"], atol=1e-6)
    np.testing.assert_allclose(answer.kappa, expected["kappa"], rtol=1e-6)
    np.testing.assert_allclose(answer.error_radii_rad, expected["error_radii"], atol=1e-6)


@pytest.mark.parametrize("n_events", [1, 8, 29])
@pytest.mark.parametrize("length", [1, 64, 128])
async def test_values_equal_those_of_onnxruntime(model: TritonModel, n_events: int, length: int) -> None:
    batch = random_batch(np.random.default_rng(length), n_events=n_events, length=length)
    answer = await model.infer("direction", batch, CallOptions())
    assert_same_as_in_process(answer, batch)
    assert answer.model == ModelVersion("direction", "1")
    assert answer.direction.dtype == np.float32


async def test_padding_does_not_change_an_answer(model: TritonModel) -> None:
    short = random_batch(np.random.default_rng(1), n_events=1, length=5)
    tables = [short.pulses[0], random_batch(np.random.default_rng(2), n_events=1, length=90).pulses[0]]
    padded = ModelInput(*pad_batch(tables, [5, 90], length=128))
    alone = await model.infer("direction", short, CallOptions())
    among_others = await model.infer("direction", padded, CallOptions())
    np.testing.assert_allclose(among_others.direction[0], alone.direction[0], atol=1e-6)
    np.testing.assert_array_equal(among_others.error_radii_rad[0], alone.error_radii_rad[0])


async def test_what_is_padding_for_a_whole_run_is_not_computed(model: TritonModel) -> None:
    rng, lengths = np.random.default_rng(5), [3] * 8 + [9, 40] + [0] * 8
    tables = [random_batch(rng, n_events=1, length=length).pulses[0] for length in lengths]
    # In runs of 8: eight short ones, the two long ones with six empty ones, two empty ones.
    answer = await model.infer("length", ModelInput(*pad_batch(tables, lengths, length=128)), CallOptions())
    assert answer.kappa[:, 0].tolist() == [3.0] * 8 + [40.0] * 8 + [1.0] * 2


async def test_concurrent_requests_of_mixed_shapes_get_their_own_answers(model: TritonModel) -> None:
    rng = np.random.default_rng(3)
    batches = [
        random_batch(rng, n_events=n, length=length)
        for n in (1, 2, 8, 29)
        for length in (7, 7, 7, 30, 30, 128)
    ] * 4
    answers = await asyncio.gather(*(model.infer("direction", batch, CallOptions()) for batch in batches))
    for answer, batch in zip(answers, batches, strict=True):
        assert_same_as_in_process(answer, batch)


async def test_single_requests_are_merged_by_the_server(model: TritonModel, triton: RunningTriton) -> None:
    batch = random_batch(np.random.default_rng(4), n_events=1, length=50)
    labels = ('model="direction"',)
    n_runs = triton.metric("nv_inference_exec_count", *labels)
    await asyncio.gather(*(model.infer("direction", batch, CallOptions()) for _ in range(128)))
    assert triton.metric("nv_inference_exec_count", *labels) - n_runs < 64


async def test_an_event_without_rows_is_answered(model: TritonModel) -> None:
    nothing = ModelInput(np.zeros((1, 0, 6), np.float32), np.zeros((1, 1), np.int32))
    answer = await model.infer("direction", nothing, CallOptions())
    np.testing.assert_array_equal(answer.direction, [[0.0, 0.0, 0.0]])


async def test_the_server_lists_its_models(model: TritonModel) -> None:
    assert await model.model_names() == ["direction", "length", "slow"]
    assert await model.is_ready("direction")
    assert not await model.is_ready("nonsense")


async def test_no_output_is_logged_for_a_request(model: TritonModel, triton: RunningTriton) -> None:
    n_bytes = triton.log.stat().st_size
    await model.infer(
        "direction", random_batch(np.random.default_rng(5), n_events=1, length=9), CallOptions()
    )
    assert triton.log.stat().st_size == n_bytes
