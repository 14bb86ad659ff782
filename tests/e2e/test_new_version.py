"""A version that appears in the model repository takes over while events flow; nothing is restarted or lost."""

import asyncio
import re
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from export.to_onnx import next_version, publish
from icestream.codec import event_to_message
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc
from tests.support.eventually import eventually
from tests.support.shipped_model import MODEL, newest_version, simulated_events
from tests.support.stack import (
    UpStack,
    assert_each_exactly_once,
    metric,
    reconstructions_of,
    running,
    running_stack,
)

RATE = 200
TAKES_OVER_S = 60.0
PARTS = ("nats-server", "tritonserver", "services.router")


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A repository of the test's own, with the newest version that is shipped."""
    folder = tmp_path / "models" / MODEL.name
    shutil.copytree(newest_version(), folder / newest_version().name)
    shutil.copy(MODEL / "config.pbtxt", folder)
    return folder


@pytest.fixture
def stack(tmp_path: Path, model_folder: Path) -> Iterator[UpStack]:
    flags = ("--trace-ratio", "0", "--model-repository", str(model_folder.parent))
    with running_stack(tmp_path / "stack", *flags) as running_one:
        yield running_one


def publish_copy(model_folder: Path) -> str:
    """Publish the shipped version once more, under the next number."""
    files = {path.name: path.read_bytes() for path in newest_version().iterdir()}
    return publish(model_folder, next_version(model_folder), files).name


@asynccontextmanager
async def calls(stack: UpStack) -> AsyncIterator[list[str]]:
    """Ask over gRPC all the time, and collect who answered; a call that fails fails the test."""
    request = reconstruction_pb2.ReconstructRequest(event=event_to_message(simulated_events(1)[0]))
    versions: list[str] = []

    async def ask_for_ever() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.endpoints.router_grpc}") as channel:
            stub = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]
            while True:
                reply = await stub.Reconstruct(request, timeout=10.0)
                versions.append(reply.reconstruction.model_version)
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        asker = group.create_task(ask_for_ever())
        yield versions
        asker.cancel()


async def test_a_new_version_takes_over_while_events_flow(
    stack: UpStack, model_folder: Path, log: Path
) -> None:
    old, seed = newest_version().name, 601
    pids = [stack.part(name).pid for name in PARTS]

    async def stored_versions() -> list[str]:
        return [row.model.version for row in await reconstructions_of(stack, seed)]

    async def are_stored_by(version: str) -> bool:
        return (await stored_versions()).count(version) > RATE

    async with calls(stack) as asked:
        emit = stack.command("emit", "--seed", str(seed), "--source", "versions", "--rate", str(RATE))
        with running(emit, log) as emitter:
            await eventually(lambda: are_stored_by(old), timeout_s=TAKES_OVER_S, poll_s=0.1)
            new = publish_copy(model_folder)
            await eventually(lambda: are_stored_by(new), timeout_s=TAKES_OVER_S, poll_s=0.1)
            emitter.send_signal(signal.SIGTERM)
            assert emitter.wait(20) == 0, log.read_text()
        await assert_each_exactly_once(stack, seed)

    assert set(await stored_versions()) == {old, new}
    assert (asked[0], asked[-1]) == (old, new)
    assert [stack.part(name).pid for name in PARTS] == pids
    for failed in ("failures", "dead_letters", "postponed", "redelivered"):
        assert metric(stack.endpoints.router_metrics, f"icestream_router_{failed}_total") == 0


async def test_a_server_that_is_killed_comes_back_with_the_newest_version(
    stack: UpStack, model_folder: Path
) -> None:
    # Two versions stay loaded, so that the one of the start is gone.
    new = [publish_copy(model_folder) for _ in range(2)][-1]
    async with calls(stack) as asked:
        await eventually(lambda: asked[-1:] == [new], timeout_s=TAKES_OVER_S, poll_s=0.1)
    assert times_ready(stack) == 1
    stack.kill("tritonserver")
    await eventually(lambda: times_ready(stack) == 2, timeout_s=20.0, poll_s=0.1)
    async with calls(stack) as asked:
        await eventually(lambda: asked[-1:] == [new])


def times_ready(stack: UpStack) -> int:
    """How often the supervisor's canary found that Triton works, after a start."""
    lines = (stack.directory / "up.log").read_text().splitlines()
    return sum("ready" in line and "process=triton" in line for line in map(without_colours, lines))


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
