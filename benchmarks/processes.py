"""Programs that a benchmark starts, and the processor time that they take."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

_POLL_S = 0.02
_STOP_S = 20.0


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for as long as the block lasts; SIGTERM ends it: what runs in the background may ignore SIGINT."""
    process = start(command, log, environment)
    try:
        yield process
    finally:
        end(process)


def start(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that writes to a log."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - programs of ours and of Debian's
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | dict(environment or {}),
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program, by force where it does not end by itself."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Ask until the answer is yes.

    Raises:
        TimeoutError: It was not within the time.
    """
    give_up_at_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_at_s:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(_POLL_S)


def cpu_s(pid: int, *, with_children: bool = False) -> float:
    """Processor time of a process so far, and of the processes below it that live."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)] if with_children else [process]
    return sum(times.user + times.system for times in (member.cpu_times() for member in family))


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What each part took in between."""
    return {part: after[part] - before.get(part, 0.0) for part in after}
