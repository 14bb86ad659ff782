import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import stack_runs
from benchmarks.stack_runs import RunningStack, until_at_rest
from icestream.runtime.endpoints import Endpoints

IDLE = "input()"
BUSY = """
import subprocess, sys
spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
print("up", flush=True)
input()
for each in spinning:
    each.kill()
    each.wait()
"""
"""Several, or they would look idle on a machine that is busy with other things."""


@contextmanager
def stack_of(program: str) -> Iterator[RunningStack]:
    """A program in place of a stack; it ends when it is told so."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield RunningStack(process, Endpoints(), is_traced=False)
        finally:
            process.communicate(b"\n")


async def test_a_stack_with_nothing_to_do_is_at_rest() -> None:
    with stack_of(IDLE) as stack:
        assert await until_at_rest(stack) >= 0.0


async def test_a_stack_that_never_rests_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_runs, "_REST_PATIENCE_S", 1.0)
    with stack_of(BUSY) as stack:
        assert stack.process.stdout is not None
        assert stack.process.stdout.readline() == b"up\n"
        with pytest.raises(TimeoutError, match="all others is still busy"):
            await until_at_rest(stack)
