"""Clients that nobody here wrote: grpcurl reads and calls the service, ghz overloads it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from google.protobuf import json_format

from icestream.codec import event_to_message
from icestream.physics.detector import icecube86
from icestream.physics.simulation import simulate_event
from icestream.runtime.local_stack import CHECKOUT, TOOL_CACHE
from icestream.v1 import reconstruction_pb2
from tests.support.stack import UpStack

SERVICE = "icestream.v1.ReconstructionService"
BUF = str(Path(sys.executable).with_name("buf"))
MEMORY_GROWTH_BYTES = 100 * 1024 * 1024


def program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path=str(TOOL_CACHE))
    if path is None:
        pytest.skip(f"no {name} program; `make tools` builds it")
    return path


def address(stack: UpStack) -> str:
    return f"127.0.0.1:{stack.endpoints.router_grpc}"


def run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def request_json() -> str:
    event = event_to_message(simulate_event(icecube86(), seed=301, index=0))
    return json_format.MessageToJson(reconstruction_pb2.ReconstructRequest(event=event), indent=None)


def test_grpcurl_lists_and_describes_the_service(stack: UpStack) -> None:
    grpcurl = program("grpcurl")
    services = run([grpcurl, "-plaintext", address(stack), "list"]).split()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(services)
    assert "rpc ReconstructStream" in run([grpcurl, "-plaintext", address(stack), "describe", SERVICE])


def test_grpcurl_calls_the_service(stack: UpStack, request_json: str) -> None:
    call = [program("grpcurl"), "-plaintext", "-d", request_json, address(stack), f"{SERVICE}/Reconstruct"]
    reconstruction = json.loads(run(call))["reconstruction"]
    direction = reconstruction["direction"]
    assert direction["x"] ** 2 + direction["y"] ** 2 + direction["z"] ** 2 == pytest.approx(1, abs=1e-5)
    assert reconstruction["model"] == "direction"
    assert 0 < reconstruction["radius50_rad"] < reconstruction["radius90_rad"]


def test_grpcurl_is_told_what_is_wrong_with_an_event(stack: UpStack) -> None:
    call = [
        *(program("grpcurl"), "-plaintext", "-d", '{"event": {"detector": "nowhere"}}'),
        *(address(stack), f"{SERVICE}/Reconstruct"),
    ]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    assert "InvalidArgument" in done.stderr
    assert "event.detector" in done.stderr
    assert "icecube86" in done.stderr


def test_too_many_calls_are_refused_and_cost_no_memory(
    stack: UpStack, request_json: str, tmp_path: Path
) -> None:
    data = tmp_path / "request.json"
    data.write_text(request_json)
    # Its own parser does not know proto3's `optional`.
    descriptors = tmp_path / "descriptors.binpb"
    run([BUF, "build", "--as-file-descriptor-set", "-o", str(descriptors), str(CHECKOUT)])
    router = stack.part("services.router")
    before_bytes = router.memory_info().rss
    report = json.loads(
        run(
            [
                *(program("ghz"), "--insecure", "--protoset", str(descriptors)),
                *("--call", f"{SERVICE}/Reconstruct", "--data-file", str(data)),
                *("--concurrency", "300", "--connections", "6", "--total", "6000", "--format", "json"),
                address(stack),
            ]
        )
    )
    statuses = report["statusCodeDistribution"]
    assert statuses.get("OK", 0) > 0
    assert statuses.get("ResourceExhausted", 0) > 0
    assert set(statuses) == {"OK", "ResourceExhausted"}
    assert router.memory_info().rss - before_bytes < MEMORY_GROWTH_BYTES
