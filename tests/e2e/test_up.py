"""`icestream up` ends as it should, however it is ended."""

import signal
from pathlib import Path

import psutil
import pytest

from icestream.runtime.endpoints import Stack
from icestream.runtime.tritonserver import SHARED_MEMORY
from tests.support.eventually import eventually
from tests.support.stack import UpStack, running_stack

STOP_S = 10.0


def family_of(stack: UpStack) -> list[psutil.Process]:
    return psutil.Process(stack.process.pid).children(recursive=True)


def nobody_left(family: list[psutil.Process]) -> bool:
    return not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)


def shared_memory_of(stack: UpStack) -> list[str]:
    return [path.name for path in SHARED_MEMORY.glob(f"icestream_{stack.process.pid}_*")]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_within_ten_seconds(tmp_path: Path, end: signal.Signals) -> None:
    with running_stack(tmp_path / "stack") as stack:
        family = family_of(stack)
        assert len(family) >= 3
        assert shared_memory_of(stack)
        stack.process.send_signal(end)
        assert stack.process.wait(STOP_S) == 0
        assert nobody_left(family)
        assert shared_memory_of(stack) == []
        assert Stack.read(stack.directory) is None


async def test_a_killed_supervisor_takes_its_stack_along(tmp_path: Path) -> None:
    with running_stack(tmp_path / "stack") as stack:
        family = family_of(stack)
        stack.process.kill()
        stack.process.wait(STOP_S)
        await eventually(lambda: nobody_left(family), timeout_s=30.0, poll_s=0.1)


def test_a_second_stack_on_the_same_ports_says_which_are_taken(stack: UpStack, tmp_path: Path) -> None:
    offset = stack.endpoints.nats - 4222
    with (
        pytest.raises(RuntimeError, match="ports are in use: nats"),
        running_stack(tmp_path / "second", offset=offset),
    ):
        pass
