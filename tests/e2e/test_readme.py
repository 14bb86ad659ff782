"""The README's programs, as they stand there, against the stack."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.stack import UpStack, running

README = Path(__file__).resolve().parents[2] / "README.md"
MAX_LINES = 20


def program_below(heading: str, stack: UpStack) -> str:
    """The first Python program of a section, with this stack's ports in place of the default ones."""
    section = README.read_text().split(f"### {heading}")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    program = found[1]
    assert program.count("\n") <= MAX_LINES
    for default, port in ((":50051", stack.endpoints.router_grpc), (":4222", stack.endpoints.nats)):
        program = program.replace(default, f":{port}")
    return program


def test_the_grpc_client_prints_a_direction(stack: UpStack) -> None:
    program = program_below("1. A gRPC call", stack)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "zenith_rad" in done.stdout


async def test_the_nats_subscriber_prints_reconstructions(stack: UpStack, log: Path, tmp_path: Path) -> None:
    program = program_below("2. A NATS subscription", stack)
    emit = stack.command("emit", "--seed", "801", "--source", "readme", "--events", "40", "--rate", "8")
    with (
        running([sys.executable, "-u", "-c", program], log),
        running(emit, tmp_path / "emitter.log"),
    ):
        await eventually(lambda: "azimuth" in log.read_text(), timeout_s=60.0)


@pytest.mark.parametrize("name", ["nv_inference_request_success", "nv_inference_queue_duration_us"])
def test_tritons_metrics_are_there(stack: UpStack, name: str) -> None:
    url = f"http://127.0.0.1:{stack.endpoints.triton_metrics}/metrics"
    assert name in httpx.get(url).text
