"""Calls to a server that asks for tokens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from icestream.runtime.grpc_status import DOMAIN
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc
from tests.support.eventually import eventually
from tests.unit.runtime.grpc_cases import (
    MAX_MESSAGE_BYTES,
    Metadata,
    ToyService,
    bearer,
    call,
    call_stream,
    channel_to,
    served,
    write_tokens,
)

BAD_HEADERS = {
    "no header": (),
    "another scheme": (("authorization", "Basic cmlnaHQ="),),
    "no scheme": (("authorization", "right"),),
    "another header": (("x-token", "right"),),
    "a wrong token": bearer("wrong"),
    "an empty token": bearer(""),
}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens", alerts="right", survey="another")


@pytest.fixture
def toy() -> ToyService:
    return ToyService()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def channel(
    toy: ToyService, tokens: Path, registry: CollectorRegistry
) -> AsyncIterator[grpc.aio.Channel]:
    async with asked(toy, tokens, registry) as channel:
        yield channel


@asynccontextmanager
async def asked(
    toy: ToyService, tokens: Path | None, registry: CollectorRegistry
) -> AsyncIterator[grpc.aio.Channel]:
    async with served(toy, tokens=tokens, registry=registry) as address, channel_to(address) as channel:
        yield channel


async def refusal_of(answer: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await answer
    return refused.value


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == DOMAIN
    return str(info.reason)


def n_refused(registry: CollectorRegistry, reason: str) -> float | None:
    return registry.get_sample_value("icestream_grpc_refused_calls_total", {"reason": reason})


@pytest.mark.parametrize("header", [*(bearer(token)[0] for token in ("right", "another"))])
async def test_a_known_token_opens_calls_and_streams(
    channel: grpc.aio.Channel, header: tuple[str, str]
) -> None:
    assert await call(channel, [header]) == "toy"
    assert await call_stream(channel, [header]) == ["toy-0", "toy-1", "toy-2"]


async def test_the_scheme_may_be_written_in_any_case(channel: grpc.aio.Channel) -> None:
    assert await call(channel, [("authorization", "bearer right")]) == "toy"


@pytest.mark.parametrize("metadata", BAD_HEADERS.values(), ids=BAD_HEADERS)
async def test_all_other_calls_are_refused_and_told_what_to_send(
    channel: grpc.aio.Channel, toy: ToyService, metadata: Metadata
) -> None:
    error = await refusal_of(call(channel, metadata))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "authorization: Bearer TOKEN" in (error.details() or "")
    assert toy.n_calls == 0


@pytest.mark.parametrize("metadata", BAD_HEADERS.values(), ids=BAD_HEADERS)
async def test_all_other_streams_are_refused_while_they_are_sent(
    toy: ToyService, tokens: Path, metadata: Metadata
) -> None:
    def refusal(address: str) -> grpc.Call:
        # Not that of asyncio, which reports its own failure to send on instead of the server's status.
        requests = [reconstruction_pb2.ReconstructStreamRequest(model="toy")] * 100
        with grpc.insecure_channel(address) as channel:
            stub = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]
            answers = stub.ReconstructStream(iter(requests), metadata=metadata, timeout=20)
            with pytest.raises(grpc.RpcError) as refused:
                list(answers)
        assert isinstance(refused.value, grpc.Call)
        return refused.value

    async with served(toy, tokens=tokens) as address:
        error = await asyncio.to_thread(refusal, address)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "authorization: Bearer TOKEN" in (error.details() or "")
    assert toy.n_calls == 0


async def test_refusals_are_counted_by_their_reason(
    channel: grpc.aio.Channel, registry: CollectorRegistry
) -> None:
    assert reason_of(await refusal_of(call(channel))) == "NO_TOKEN"
    assert reason_of(await refusal_of(call(channel, bearer("wrong")))) == "WRONG_TOKEN"
    assert reason_of(await refusal_of(call_stream(channel, bearer("wrong"), n_events=0))) == "WRONG_TOKEN"
    assert (n_refused(registry, "no_token"), n_refused(registry, "wrong_token")) == (1, 2)


async def test_no_token_is_logged(channel: grpc.aio.Channel) -> None:
    with capture_logs() as logs:
        await call(channel, bearer("right"))
        await refusal_of(call(channel, bearer("a-wrong-token")))
    assert logs
    assert "right" not in str(logs)
    assert "a-wrong-token" not in str(logs)


async def test_the_request_of_a_refused_call_is_never_read(channel: grpc.aio.Channel) -> None:
    too_large = reconstruction_pb2.ReconstructRequest(model="x" * (2 * MAX_MESSAGE_BYTES))
    refused = await refusal_of(call(channel, request=too_large))
    read = await refusal_of(call(channel, bearer("right"), too_large))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    assert read.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_asks_nobody(channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert (await anext(aiter(watch))).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def reflected(channel: grpc.aio.Channel, metadata: Metadata = ()) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answers = stub.ServerReflectionInfo(requests, metadata=metadata, timeout=20)
    return [service.name async for answer in answers for service in answer.list_services_response.service]


async def test_reflection_asks_as_every_other_service(channel: grpc.aio.Channel) -> None:
    assert (await refusal_of(reflected(channel))).code() is grpc.StatusCode.UNAUTHENTICATED
    assert "icestream.v1.ReconstructionService" in await reflected(channel, bearer("right"))


async def test_who_is_unknown_does_not_learn_which_methods_there_are(channel: grpc.aio.Channel) -> None:
    method = channel.unary_unary("/icestream.v1.ReconstructionService/None", None, None)
    assert (await refusal_of(method(b"", timeout=20))).code() is grpc.StatusCode.UNAUTHENTICATED
    known = method(b"", timeout=20, metadata=bearer("right"))
    assert (await refusal_of(known)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_changed_token_is_asked_for_without_a_restart(
    channel: grpc.aio.Channel, tokens: Path
) -> None:
    assert await call(channel, bearer("right")) == "toy"
    write_tokens(tokens, alerts="rotated")

    async def has_changed() -> bool:
        try:
            return await call(channel, bearer("rotated")) == "toy"
        except grpc.aio.AioRpcError:
            return False

    await eventually(has_changed)
    assert (await refusal_of(call(channel, bearer("right")))).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_without_a_token_file_anybody_may_call(toy: ToyService, registry: CollectorRegistry) -> None:
    async with asked(toy, None, registry) as channel:
        assert await call(channel) == "toy"
        assert await call(channel, bearer("whatever")) == "toy"
