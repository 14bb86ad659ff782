"""Real processes: small Python programs that do what servers do, and what they should not."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from icestream.errors import ProcessFailed
from icestream.runtime import supervisor as supervisor_module
from icestream.runtime.supervisor import ProcessSpec, Supervisor
from tests.support.eventually import eventually

# Says that it is there, then waits for ever.
SERVER = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text('up'); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVER}"
# Its child outlives it and ignores requests to end.
CHILD = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
)
PARENT = (
    "import subprocess, sys; "
    f"process = subprocess.Popen([sys.executable, '-S', '-c', '{CHILD}'], stdout=subprocess.PIPE); "
    f"process.stdout.readline(); {SERVER}"
)


@dataclass(frozen=True)
class Programs:
    """Where the programs say that they are up."""

    folder: Path

    def spec(self, name: str, code: str = SERVER, **changes: Any) -> ProcessSpec:
        mark = self.folder / name
        facts: dict[str, Any] = {
            "name": name,
            "command": [sys.executable, "-S", "-c", code, str(mark)],
            "is_ready": self.is_up(mark),
            "start_timeout_s": 10.0,
            "stop_timeout_s": 5.0,
        }
        return ProcessSpec(**(facts | changes))

    def is_up(self, mark: Path) -> Callable[[], Awaitable[bool]]:
        async def is_up() -> bool:
            return mark.exists()

        return is_up


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "_WATCH_EVERY_S", 0.05)
    monkeypatch.setattr(supervisor_module, "_POLL_S", 0.01)
    monkeypatch.setattr(supervisor_module, "_FIRST_BACKOFF_S", 0.01)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def has_ended(process: asyncio.subprocess.Process) -> bool:
    return process.returncode is not None


async def restarted(supervisor: Supervisor, name: str, old_pid: int) -> int:
    await eventually(lambda: supervisor.pid(name) != old_pid, timeout_s=5)
    return supervisor.pid(name)


async def test_a_process_is_started_once_the_one_before_is_ready(programs: Programs, logs: Path) -> None:
    async with Supervisor(logs) as supervisor:
        await supervisor.start(programs.spec("first"))
        assert (programs.folder / "first").exists()
        first = supervisor.pid("first")
        await supervisor.start(programs.spec("second"))
        second = supervisor.pid("second")
        assert lives(first)
        assert lives(second)
        with pytest.raises(LookupError, match="third"):
            supervisor.pid("third")
    assert not lives(first)
    assert not lives(second)


async def test_the_last_started_is_stopped_first(programs: Programs, logs: Path) -> None:
    ended: list[str] = []
    async with Supervisor(logs) as supervisor:
        for name in ("nats", "triton", "router"):
            await supervisor.start(programs.spec(name, clean_up=lambda name=name: ended.append(name)))
    assert ended == ["router", "triton", "nats"]


async def test_a_killed_process_is_restarted(programs: Programs, logs: Path) -> None:
    cleaned: list[int] = []
    async with Supervisor(logs) as supervisor:
        await supervisor.start(programs.spec("server", clean_up=lambda: cleaned.append(1)))
        for n_kills in (1, 2):
            pid = supervisor.pid("server")
            os.kill(pid, signal.SIGKILL)
            new_pid = await restarted(supervisor, "server", pid)
            assert lives(new_pid)
            assert len(cleaned) == n_kills
    assert not lives(new_pid)


async def test_an_ailing_process_is_restarted(programs: Programs, logs: Path) -> None:
    ailing: set[int] = set()

    async def ailment() -> str | None:
        return "does not compute" if supervisor.pid("server") in ailing else None

    async with Supervisor(logs) as supervisor:
        await supervisor.start(programs.spec("server", ailment=ailment))
        pid = supervisor.pid("server")
        await asyncio.sleep(0.2)
        assert supervisor.pid("server") == pid
        ailing.add(pid)
        assert lives(await restarted(supervisor, "server", pid))
        assert not lives(pid)


async def test_a_restart_that_takes_longer_than_a_start_may_is_not_cut_short_for_ever(
    programs: Programs, logs: Path
) -> None:
    mark = programs.folder / "slow"
    is_up = programs.is_up(mark)

    async def ailment() -> str | None:
        return None if await is_up() else "it does not answer"

    # As on a machine that is busy by then: from the second start on it takes a second longer than it may.
    code = (
        "import pathlib, sys, time; first = pathlib.Path(sys.argv[1] + '-first'); "
        f"time.sleep(3 if first.exists() else 0); first.touch(); {SERVER}"
    )
    spec = programs.spec(
        "slow", code, ailment=ailment, clean_up=partial(mark.unlink, True), start_timeout_s=2.0
    )
    async with Supervisor(logs) as supervisor:
        await supervisor.start(spec)
        os.kill(supervisor.pid("slow"), signal.SIGKILL)
        await eventually(lambda: not mark.exists(), timeout_s=5)
        await eventually(mark.exists, timeout_s=20)


async def test_a_process_that_ignores_sigterm_is_killed_in_time(programs: Programs, logs: Path) -> None:
    async with Supervisor(logs) as supervisor:
        await supervisor.start(programs.spec("stubborn", STUBBORN, stop_timeout_s=0.2))
        pid = supervisor.pid("stubborn")
        started_s = time.monotonic()
    assert 0.2 <= time.monotonic() - started_s < 2.0
    assert not lives(pid)


async def test_a_process_that_ends_at_once_is_not_waited_for(programs: Programs, logs: Path) -> None:
    async with Supervisor(logs) as supervisor:
        await supervisor.start(programs.spec("server", stop_timeout_s=30.0))
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 5.0


@pytest.mark.parametrize("is_killed", [True, False])
async def test_the_children_of_a_process_end_with_it(programs: Programs, logs: Path, is_killed: bool) -> None:
    async with Supervisor(logs) as supervisor:
        await supervisor.start(programs.spec("parent", PARENT))
        parent = supervisor.pid("parent")
        [child] = psutil.Process(parent).children(recursive=True)
        if is_killed:
            os.kill(parent, signal.SIGKILL)
            await restarted(supervisor, "parent", parent)
            await eventually(lambda: not lives(child.pid))
    await eventually(lambda: not lives(child.pid))
    assert not lives(parent)


async def test_a_process_that_ends_before_it_is_ready_shows_the_end_of_its_log(
    programs: Programs, logs: Path
) -> None:
    code = "for i in range(30): print('line', i)\nraise SystemExit(3)"
    async with Supervisor(logs) as supervisor:
        with pytest.raises(ProcessFailed, match="broken ended with status 3 before it was ready") as failed:
            await supervisor.start(programs.spec("broken", code))
    assert str(logs / "broken.log") in str(failed.value)
    assert "line 29" in str(failed.value)
    assert "line 2\n" not in str(failed.value)


async def test_a_process_that_is_never_ready_is_given_up(programs: Programs, logs: Path) -> None:
    code = "import time; print('thinking', flush=True); time.sleep(60)"
    pids: list[int] = []
    async with Supervisor(logs) as supervisor:
        with pytest.raises(ProcessFailed, match="slow was not ready within 0 s") as failed:
            await supervisor.start(programs.spec("slow", code, start_timeout_s=0.3))
        assert "thinking" in str(failed.value)
        pids.append(supervisor.pid("slow"))
    assert not lives(pids[0])


async def test_a_program_that_is_not_there_fails_with_its_name(programs: Programs, logs: Path) -> None:
    async with Supervisor(logs) as supervisor:
        with pytest.raises(ProcessFailed, match="ghost"):
            await supervisor.start(programs.spec("ghost", command=["/no/such/program"]))


async def test_a_process_may_end_by_itself(programs: Programs, logs: Path) -> None:
    async with Supervisor(logs) as supervisor:
        await supervisor.run_to_end(programs.spec("job", "print('done')"))
        with pytest.raises(ProcessFailed, match="job ended with status 4"):
            await supervisor.run_to_end(programs.spec("job", "raise SystemExit(4)"))
    assert "done" in (logs / "job.log").read_text()


async def test_a_process_that_should_end_by_itself_is_stopped_with_the_rest(
    programs: Programs, logs: Path
) -> None:
    async with Supervisor(logs) as supervisor:
        running = asyncio.create_task(supervisor.run_to_end(programs.spec("job")))
        await eventually((programs.folder / "job").exists)
        pid = supervisor.pid("job")
        running.cancel()
    assert not lives(pid)


async def test_stop_while_a_process_is_being_restarted_leaves_nothing(programs: Programs, logs: Path) -> None:
    async with Supervisor(logs) as supervisor:
        await supervisor.start(programs.spec("server"))
        pid = supervisor.pid("server")
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not lives(pid), poll_s=0.001)
    await asyncio.sleep(0.1)
    marks = [each for each in psutil.process_iter(["cmdline"]) if str(programs.folder) in str(each.info)]
    assert marks == []


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncio.wait_for was rewritten")
async def test_stop_at_the_moment_when_a_process_dies_ends(programs: Programs, logs: Path) -> None:
    # Turn by turn of the event loop, to meet the watcher in each state of noticing.
    for n_turns in range(4):
        async with Supervisor(logs) as supervisor:
            await supervisor.start(programs.spec("server"))
            process = supervisor._running[0].process
            process.kill()
            await eventually(partial(has_ended, process), poll_s=0)
            for _ in range(n_turns):
                await asyncio.sleep(0)
            await asyncio.wait_for(supervisor.stop(), 1)


async def test_the_environment_is_the_one_that_was_given(programs: Programs, logs: Path) -> None:
    code = "import os; print(sorted(name for name in os.environ if not name.startswith('LC_')))"
    async with Supervisor(logs) as supervisor:
        await supervisor.run_to_end(programs.spec("job", code, env={"ICESTREAM_TOY": "1"}))
    assert (logs / "job.log").read_text().strip() == "['ICESTREAM_TOY']"
