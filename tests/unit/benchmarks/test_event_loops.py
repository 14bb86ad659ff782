import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.event_loops import LOOPS, environment_for, loop_of

CHECKOUT = Path(__file__).resolve().parents[3]
SERVICE = """
import asyncio
from icestream.runtime.lifecycle import run_service

async def serve(stop):
    print(type(asyncio.get_running_loop()).__module__.split(".")[0], flush=True)
    await stop.wait()

run_service(serve)
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_service_runs_on_the_loop_that_its_environment_says(loop: str, tmp_path: Path) -> None:
    environment = os.environ | environment_for(loop, tmp_path / "modules")
    command = [sys.executable, "-c", SERVICE]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, env=environment
    ) as service:
        assert service.stdout is not None
        assert service.stdout.readline().strip() == loop
        assert loop_of(psutil.Process(service.pid)) == loop
        service.terminate()
        service.communicate(timeout=10)
    assert service.returncode == 0
