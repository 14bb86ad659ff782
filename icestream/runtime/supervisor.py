"""Runs the processes of a local stack: starts them in order, watches them, and leaves nothing behind."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from icestream.errors import ProcessFailed

_POLL_S = 0.05
_WATCH_EVERY_S = 1.0
_FIRST_BACKOFF_S = 0.2
_SLOWEST_BACKOFF_S = 5.0
_STEADY_AFTER_S = 30.0
_STOP_ALL_S = 9.0
_STOP_ONE_S = 0.5
_LOG_TAIL_LINES = 15

_log = structlog.get_logger()


async def _always_well() -> str | None:
    return None


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How one process is started, watched and ended."""

    name: str
    command: Sequence[str]
    is_ready: Callable[[], Awaitable[bool]]
    """Asked until it says yes; only then is the next process started."""
    env: Mapping[str, str] | None = None
    """Its whole environment; ours where it is None."""
    ailment: Callable[[], Awaitable[str | None]] = _always_well
    """What ails a running process so that only a restart helps, or None."""
    clean_up: Callable[[], object] = _nothing
    """Removes what a killed process leaves behind."""
    start_timeout_s: float = 60.0
    """Twice as long after each restart that took longer: a machine that is busy must not be restarted for ever."""
    stop_timeout_s: float = 6.0
    """From SIGTERM to SIGKILL."""


@dataclass(slots=True, eq=False)
class _Running:
    spec: ProcessSpec
    process: asyncio.subprocess.Process
    started_s: float
    watcher: asyncio.Task[None] | None = None
    backoff_s: float = field(default=_FIRST_BACKOFF_S)
    patience: int = 1
    """In units of `start_timeout_s`."""


class Supervisor:
    """An async context manager; leaving it stops every process, the last started first."""

    def __init__(self, log_dir: Path) -> None:
        """Prepare.

        Args:
            log_dir: Each process writes to `<name>.log` in it.
        """
        self._log_dir = log_dir
        self._running: list[_Running] = []

    async def __aenter__(self) -> Self:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, spec: ProcessSpec) -> None:
        """Start a process, wait until it is ready, and restart it from then on whenever it ends.

        Raises:
            ProcessFailed: It ended, or was not ready in time; the text shows the end of its log.
        """
        running = _Running(spec, await self._spawn(spec), time.monotonic())
        self._running.append(running)
        await self._wait_until_ready(running)
        running.watcher = asyncio.create_task(self._watch(running), name=f"watch-{spec.name}")

    async def run_to_end(self, spec: ProcessSpec) -> None:
        """Start a process that ends by itself, and wait for that.

        Raises:
            ProcessFailed: It ended with another status than 0.
        """
        running = _Running(spec, await self._spawn(spec), time.monotonic())
        self._running.append(running)
        status = await running.process.wait()
        self._running.remove(running)
        if status != 0:
            raise ProcessFailed(f"{spec.name} ended with status {status}\n{self._log_tail(spec)}")

    async def stop(self) -> None:
        """Stop every process within 9 s, the last started first; what does not end in time is killed."""
        watchers = [running.watcher for running in self._running if running.watcher is not None]
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        deadline_s = time.monotonic() + _STOP_ALL_S
        while self._running:
            # A slow one may not take the time that the others need.
            left_s = deadline_s - time.monotonic() - _STOP_ONE_S * (len(self._running) - 1)
            await self._end(self._running.pop(), max(left_s, 0.0))

    def pid(self, name: str) -> int:
        """Process id of a running process.

        Raises:
            LookupError: There is none of this name.
        """
        for running in self._running:
            if running.spec.name == name:
                return running.process.pid
        raise LookupError(f"no process {name!r}")

    async def _spawn(self, spec: ProcessSpec) -> asyncio.subprocess.Process:
        log = os.open(self._log_dir / f"{spec.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            return await asyncio.create_subprocess_exec(
                *_tied_to_us(spec.command),
                env=dict(spec.env) if spec.env is not None else None,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own group: Ctrl-C reaches us alone, and its children can be ended with it.
                start_new_session=True,
            )
        except OSError as error:
            raise ProcessFailed(f"{spec.name} cannot be started: {error}") from error
        finally:
            os.close(log)

    async def _wait_until_ready(self, running: _Running) -> None:
        spec = running.spec
        timeout_s = running.patience * spec.start_timeout_s
        deadline_s = time.monotonic() + timeout_s
        while not await spec.is_ready():
            if running.process.returncode is not None:
                raise ProcessFailed(
                    f"{spec.name} ended with status {running.process.returncode} "
                    f"before it was ready\n{self._log_tail(spec)}"
                )
            if time.monotonic() > deadline_s:
                running.patience *= 2
                raise ProcessFailed(
                    f"{spec.name} was not ready within {timeout_s:.0f} s\n{self._log_tail(spec)}"
                )
            await asyncio.sleep(_POLL_S)
        running.patience = 1
        _log.info("ready", process=spec.name, seconds=round(time.monotonic() - running.started_s, 2))

    async def _watch(self, running: _Running) -> None:
        """Restart a process when it ended, or when something ails it."""
        spec = running.spec
        while True:
            # Not wait_for: before Python 3.12 it swallows a cancellation when the process ends just then.
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_EVERY_S):
                    await running.process.wait()
            status = running.process.returncode
            problem = f"ended with status {status}" if status is not None else await spec.ailment()
            if problem is None:
                continue
            _log.warning("restarting", process=spec.name, problem=problem)
            await self._restart(running)

    async def _restart(self, running: _Running) -> None:
        _kill_group(running.process)
        await running.process.wait()
        running.spec.clean_up()
        if time.monotonic() - running.started_s > _STEADY_AFTER_S:
            running.backoff_s = _FIRST_BACKOFF_S
        await asyncio.sleep(running.backoff_s)
        running.backoff_s = min(2 * running.backoff_s, _SLOWEST_BACKOFF_S)
        running.started_s = time.monotonic()
        try:
            running.process = await self._spawn(running.spec)
            await self._wait_until_ready(running)
        except ProcessFailed as error:
            _log.error("restart failed", process=running.spec.name, problem=str(error))

    async def _end(self, running: _Running, longest_s: float) -> None:
        process = running.process
        timeout_s = min(running.spec.stop_timeout_s, longest_s)
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), timeout_s)
        # Also when it ended by itself: its children may not have.
        _kill_group(process)
        await process.wait()
        running.spec.clean_up()

    def _log_tail(self, spec: ProcessSpec) -> str:
        path = self._log_dir / f"{spec.name}.log"
        with suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
            return "\n".join([f"--- {path}", *(f"  {line}" for line in lines)])
        return ""


def _tied_to_us(command: Sequence[str]) -> Sequence[str]:
    """The command, ended by the kernel should we be killed; Debian has setpriv in every installation."""
    setpriv = "/usr/bin/setpriv"
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if Path(setpriv).exists() else command


def _kill_group(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def python_command(module: str, *arguments: str) -> list[str]:
    """Run a module with the Python that runs us."""
    return [sys.executable, "-m", module, *arguments]
