import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icestream.runtime.lifecycle import ended_by_signals, first_of

CHECKOUT = Path(__file__).resolve().parents[3]
SERVICE = """
import asyncio, sys
from icestream.errors import Misconfigured
from icestream.runtime.lifecycle import run_service

async def serve(stop):
    if "broken" in sys.argv:
        raise Misconfigured("the port is taken; choose another")
    print("up", flush=True)
    await stop.wait()
    await asyncio.sleep(0.01)
    print("finished what it had begun", flush=True)

run_service(serve)
"""


def start_service(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVICE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=CHECKOUT,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_service_finish_what_it_has_begun(number: signal.Signals) -> None:
    with start_service() as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "up\n"
        service.send_signal(number)
        output, _ = service.communicate(timeout=10)
    assert output == "finished what it had begun\n"
    assert service.returncode == 0


def test_an_expected_failure_is_one_line_and_status_1() -> None:
    with start_service("broken") as service:
        output, _ = service.communicate(timeout=10)
    assert service.returncode == 1
    [line] = output.splitlines()
    assert "the port is taken; choose another" in line
    assert "misconfigured" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_command_in_peace(number: signal.Signals) -> None:
    is_closed = False
    with ended_by_signals():
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(10)
        finally:
            # A second Ctrl-C does not disturb the end.
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.01)
            is_closed = True
    assert is_closed
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_block_that_ends_by_itself_is_left_alone() -> None:
    with ended_by_signals():
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert not loop.remove_signal_handler(signal.SIGTERM)


async def test_a_cancellation_by_others_goes_on() -> None:
    async def command() -> None:
        with ended_by_signals():
            await asyncio.sleep(10)

    task = asyncio.create_task(command())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_first_that_is_done_ends_the_others() -> None:
    waiting = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            waiting.set()

    await first_of(forever(), asyncio.sleep(0.01))
    assert waiting.is_set()


async def test_what_the_first_raised_is_raised() -> None:
    async def failing() -> None:
        raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        await first_of(failing(), asyncio.sleep(10))


async def test_being_cancelled_ends_all_of_them() -> None:
    is_ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            is_ended.set()

    task = asyncio.create_task(first_of(forever(), forever()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_ended.is_set()
