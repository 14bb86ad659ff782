"""Each way to fail has its own error, and hits only whom it must."""

import asyncio
import time
from collections.abc import Sequence

import grpc
import numpy as np
import pytest

from icestream.errors import (
    DeadlineExceeded,
    IceStreamError,
    Misconfigured,
    ModelFailed,
    ModelOverloaded,
    ModelUnavailable,
    UnknownModel,
)
from icestream.ports import CallOptions, ModelInput, ModelOutput
from icestream.runtime.triton import TritonModel, translate
from tests.support.models import POISON_LENGTH, random_batch
from tests.support.triton_server import RunningTriton, free_ports

EVENT = random_batch(np.random.default_rng(1), n_events=1, length=16)
POISON = ModelInput(EVENT.pulses, np.full((1, 1), POISON_LENGTH, np.int32))
SLOW_RUN_S = 0.02
"""Shorter than a run of the slow model on any machine."""


async def infer_all(
    model: TritonModel, name: str, batches: Sequence[ModelInput], options: CallOptions
) -> list[ModelOutput | BaseException]:
    calls = (model.infer(name, batch, options) for batch in batches)
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_a_poison_request_fails_alone_in_a_merged_batch(model: TritonModel) -> None:
    batches = [POISON if i % 20 == 13 else EVENT for i in range(64)]
    answers = await infer_all(model, "direction", batches, CallOptions())
    for batch, answer in zip(batches, answers, strict=True):
        assert isinstance(answer, ModelFailed if batch is POISON else ModelOutput)


async def test_the_text_of_a_failure_names_no_file(model: TritonModel) -> None:
    with pytest.raises(ModelFailed, match="out of data bounds") as failure:
        await model.infer("direction", POISON, CallOptions())
    assert "/" not in str(failure.value)


async def test_an_unknown_model_is_named_with_what_is_served(model: TritonModel) -> None:
    with pytest.raises(UnknownModel) as failure:
        await model.infer("energy", EVENT, CallOptions())
    assert failure.value.available == ("direction", "length", "slow")


async def test_an_unknown_version_is_refused(model: TritonModel) -> None:
    inputs = {"pulses": EVENT.pulses, "lengths": EVENT.lengths}
    with pytest.raises(UnknownModel, match="direction/7"):
        await model.infer_tensors("direction", inputs, CallOptions(), version="7")


async def test_a_batch_above_the_limit_is_refused(model: TritonModel) -> None:
    too_many = random_batch(np.random.default_rng(2), n_events=33, length=16)
    with pytest.raises(ModelFailed, match="batch-size"):
        await model.infer("direction", too_many, CallOptions())


async def test_a_message_above_the_limit_is_refused_here(triton: RunningTriton) -> None:
    async with TritonModel(triton.target, max_message_bytes=1000) as model:
        with pytest.raises(ModelFailed, match="larger than max"):
            await model.infer(
                "direction", random_batch(np.random.default_rng(2), n_events=8, length=64), CallOptions()
            )


async def test_a_full_queue_is_overload(model: TritonModel) -> None:
    batches = [random_batch(np.random.default_rng(3), n_events=8, length=16)] * 24
    answers = await infer_all(model, "slow", batches, CallOptions(timeout_s=60))
    assert any(isinstance(answer, ModelOutput) for answer in answers)
    refused = [answer for answer in answers if not isinstance(answer, ModelOutput)]
    assert refused
    assert all(isinstance(answer, ModelOverloaded) for answer in refused)


async def test_the_deadline_ends_a_call(model: TritonModel) -> None:
    start_s = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await model.infer("slow", EVENT, CallOptions(timeout_s=SLOW_RUN_S))
    assert time.monotonic() - start_s < 0.5


async def test_urgent_requests_overtake_bulk(model: TritonModel) -> None:
    finished: list[str] = []

    async def ask(name: str, options: CallOptions) -> None:
        await model.infer("slow", random_batch(np.random.default_rng(3), n_events=8, length=16), options)
        finished.append(name)

    bulk = [asyncio.create_task(ask("bulk", CallOptions(timeout_s=60))) for _ in range(4)]
    await asyncio.sleep(0.05)
    await ask("urgent", CallOptions(is_urgent=True, timeout_s=60))
    await asyncio.gather(*bulk)
    assert finished.index("urgent") < 3


async def test_a_server_that_is_away_is_unavailable() -> None:
    async with TritonModel(f"127.0.0.1:{free_ports().grpc}") as model:
        with pytest.raises(ModelUnavailable):
            await model.infer("direction", EVENT, CallOptions(timeout_s=5))
        assert not await model.is_ready("direction")
        with pytest.raises(ModelUnavailable):
            await model.model_names()


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (
            "UNAVAILABLE",
            "This protocol is restricted, expecting header 'triton-grpc-protocol-a'",
            Misconfigured,
        ),
        ("UNAVAILABLE", "[request id: 1] Exceeds maximum queue size", ModelOverloaded),
        ("UNAVAILABLE", "Request timeout expired", ModelOverloaded),
        ("UNAVAILABLE", "Request for unknown model: 'a' has no available versions", UnknownModel),
        ("UNAVAILABLE", "Server is stopping, scheduler for model has stopped", ModelUnavailable),
        ("UNAVAILABLE", "Socket closed", ModelUnavailable),
        ("NOT_FOUND", "Request for unknown model: 'a' is not found", UnknownModel),
        ("INTERNAL", "Stub process 'direction_0_0' is not healthy.", ModelUnavailable),
        ("INTERNAL", "index out of bounds", ModelFailed),
        ("INVALID_ARGUMENT", "unexpected shape for input 'pulses'", ModelFailed),
        ("RESOURCE_EXHAUSTED", "Received message larger than max", ModelFailed),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
        ("CANCELLED", "", ModelUnavailable),
        ("UNIMPLEMENTED", "", Misconfigured),
    ],
)
def test_a_status_becomes_the_error_that_says_what_to_do(
    code: str, text: str, expected: type[IceStreamError]
) -> None:
    nothing = grpc.aio.Metadata()
    status = grpc.aio.AioRpcError(grpc.StatusCode[code], nothing, nothing, text, "")
    assert type(translate(status, model="direction")) is expected
