"""Kill -9 of every part under load: each event that was acknowledged gets exactly one reconstruction."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.stack import (
    UpStack,
    assert_each_exactly_once,
    metric,
    reconstructed_events,
    running,
)

RATE = 400
N_EVENTS = 1200


def emitter_command(stack: UpStack, seed: int, *flags: str) -> list[str]:
    return stack.command(
        "emit", "--seed", str(seed), "--source", f"seed-{seed}", "--events", str(N_EVENTS), *flags
    )


async def some_are_reconstructed(stack: UpStack, seed: int, n: int) -> None:
    async def enough() -> bool:
        return len(await reconstructed_events(stack, seed)) >= n

    await eventually(enough, timeout_s=60.0, poll_s=0.1)


@pytest.mark.parametrize(
    ("seed", "part"), [(101, "nats-server"), (102, "tritonserver"), (103, "triton_python_backend_stub")]
)
async def test_a_killed_part_costs_no_event_and_doubles_none(
    stack: UpStack, log: Path, seed: int, part: str
) -> None:
    with running(emitter_command(stack, seed, "--rate", str(RATE)), log) as emitter:
        await some_are_reconstructed(stack, seed, 200)
        # Of Triton's backends all: one alone may serve a model that nobody asks.
        killed = stack.parts(part)
        for process in killed:
            process.kill()
        assert emitter.wait(60) == 0, log.read_text()
    await assert_each_exactly_once(stack, seed, N_EVENTS)
    await eventually(lambda: (running := stack.parts(part)) and not {*running} & {*killed}, timeout_s=60.0)


@contextmanager
def second_router(
    stack: UpStack, log: Path, *flags: str
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[str], float]]]:
    command = [
        *(sys.executable, "-m", "services.router", "--instance", "second"),
        *("--nats-url", stack.endpoints.nats_url, "--triton-url", f"127.0.0.1:{stack.endpoints.triton_grpc}"),
        *("--grpc-port", "0", "--metrics-port", str(stack.endpoints.router_metrics + 7)),
        *flags,
    ]
    with running(command, log) as process:
        yield process, lambda name: metric(stack.endpoints.router_metrics + 7, name)


RECONSTRUCTED = 'icestream_router_reconstructions_total{face="nats"}'


async def test_two_routers_share_the_load_and_one_may_be_killed(
    stack: UpStack, log: Path, tmp_path: Path
) -> None:
    # The killed router's events come back after this long.
    with second_router(stack, log, "--ack-wait-s", "5") as (_, second_metric):
        await eventually(lambda: "router is up" in log.read_text(), timeout_s=30.0)
        first_before = metric(stack.endpoints.router_metrics, RECONSTRUCTED)
        with running(emitter_command(stack, 104, "--rate", str(RATE)), tmp_path / "emitter.log") as emitter:
            await eventually(lambda: second_metric(RECONSTRUCTED) > 100, timeout_s=60.0)
            await eventually(
                lambda: metric(stack.endpoints.router_metrics, RECONSTRUCTED) - first_before > 100,
                timeout_s=60.0,
            )
            pid = stack.part("services.router").pid
            stack.kill("services.router")
            assert emitter.wait(60) == 0
            await assert_each_exactly_once(stack, 104, N_EVENTS)
    await eventually(
        lambda: {router.pid for router in stack.parts("services.router")} - {pid}, timeout_s=60.0
    )


async def test_a_router_that_is_told_to_stop_leaves_nothing_to_redeliver(
    stack: UpStack, log: Path, tmp_path: Path
) -> None:
    with second_router(stack, log) as (router, second_metric):
        await eventually(lambda: "router is up" in log.read_text(), timeout_s=30.0)
        redelivered_before = metric(stack.endpoints.router_metrics, "icestream_router_redelivered_total")
        with running(emitter_command(stack, 105, "--rate", str(RATE)), tmp_path / "emitter.log") as emitter:
            await eventually(lambda: second_metric(RECONSTRUCTED) > 100, timeout_s=60.0)
            router.send_signal(signal.SIGTERM)
            assert router.wait(10) == 0, log.read_text()
            assert emitter.wait(60) == 0
    await assert_each_exactly_once(stack, 105, N_EVENTS)
    assert metric(stack.endpoints.router_metrics, "icestream_router_redelivered_total") == redelivered_before


async def test_a_killed_emitter_resumes_behind_its_last_stored_event(stack: UpStack, log: Path) -> None:
    command = emitter_command(stack, 106, "--rate", str(RATE))
    with running(command, log) as emitter:
        await some_are_reconstructed(stack, 106, 200)
        emitter.kill()
        emitter.wait(10)
    with running(command, log) as emitter:
        assert emitter.wait(60) == 0, log.read_text()
    assert "resuming where the last emitter stopped" in log.read_text()
    await assert_each_exactly_once(stack, 106, N_EVENTS)


async def test_an_emitter_that_was_done_publishes_nothing_when_it_is_started_again(
    stack: UpStack, log: Path
) -> None:
    for _ in range(2):
        with running(emitter_command(stack, 107), log) as emitter:
            assert emitter.wait(60) == 0, log.read_text()
    await assert_each_exactly_once(stack, 107, N_EVENTS)
