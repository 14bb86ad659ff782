"""`icestream demo`, as `make demo` runs it, on a stack of its own."""

import json
import subprocess
from pathlib import Path
from typing import Any

from icestream.runtime.local_stack import find_jaeger
from tests.support.stack import ICESTREAM

N_EVENTS = 400
RANDOM_DEG = 90.0


def demo(*flags: str) -> dict[str, Any]:
    done = subprocess.run(
        [ICESTREAM, "demo", "--json", *flags], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_the_demo_accounts_for_every_event() -> None:
    report = demo("--events", str(N_EVENTS), "--trace-ratio", "0.1")
    assert report["events_published"] == report["events_reconstructed"] == N_EVENTS
    assert report["duplicates"] == report["dead_letters"] == 0
    assert report["events_per_s"] > 0
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert report["opening_angle_deg"]["mean"] < 0.7 * RANDOM_DEG
    assert report["linefit_opening_angle_deg"]["mean"] < 0.7 * RANDOM_DEG
    if find_jaeger() is not None:
        assert {"icestream-emitter", "icestream-router", "triton"} <= set(report["trace_services"])


def test_the_demo_takes_a_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    subprocess.run([ICESTREAM, "simulate", "--events", "50", "--out", str(folder)], check=True, timeout=120)
    report = demo("--dataset", str(folder))
    assert report["events_published"] == report["events_reconstructed"] == 50
