"""Runs our services on the event loop that they would have without uvloop."""

import os
from pathlib import Path

import psutil

UVLOOP, ASYNCIO = "uvloop", "asyncio"
LOOPS = (UVLOOP, ASYNCIO)

_STAND_IN = "from asyncio import run as run\n"


def environment_for(loop: str, directory: Path) -> dict[str, str]:
    """What processes must have in their environment to use a loop.

    Services always use uvloop, and nothing of it but `uvloop.run`, so a module of that name that is found first
    gives them asyncio's.

    Args:
        loop: One of `LOOPS`.
        directory: Ours to write; made where it is not there.
    """
    if loop == UVLOOP:
        return {}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "uvloop.py").write_text(_STAND_IN)
    return {"PYTHONPATH": os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])}


def loop_of(process: psutil.Process) -> str:
    """Which of `LOOPS` a process uses, by the libraries that it has loaded."""
    loaded = (Path(mapped.path) for mapped in process.memory_maps())
    return UVLOOP if any(UVLOOP in path.parts for path in loaded) else ASYNCIO
