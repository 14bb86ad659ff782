"""Spans leave by OTLP; a burst loses none, and a backend that is away costs nothing but a count."""

import subprocess
import sys
import time
from pathlib import Path

from icestream.runtime.tracing import tracing
from tests.support.nats_server import free_port
from tests.support.otlp_collector import span_collector

N_SPANS = 20_000
"""Twenty seconds at 1000 spans/s, all at once."""
SHUTDOWN_S = 3.0
SLACK_S = 2.0


def test_a_burst_of_spans_arrives_whole() -> None:
    with span_collector() as collector:
        with tracing("burst", "one", collector.endpoint, ratio=1.0) as traces:
            for _ in range(N_SPANS):
                traces.tracer.start_span("work").end()
            # The exporter takes them out of its queue in batches, in a thread of its own.
            deadline_s = time.monotonic() + 60.0
            while len(collector.trace_ids()) < N_SPANS and time.monotonic() < deadline_s:
                time.sleep(0.05)
            assert traces.dropped_spans() == 0
        assert len(collector.trace_ids()) == N_SPANS
        assert collector.services() == {"burst"}


PROGRAM_WITHOUT_BACKEND = """
import sys, time
from icestream.runtime.tracing import tracing
with tracing("alone", "one", sys.argv[1], ratio=1.0) as traces:
    for _ in range(70_000):
        traces.tracer.start_span("work").end()
    print(traces.dropped_spans())
    ended_s = time.monotonic()
print(time.monotonic() - ended_s)
"""


def test_a_backend_that_is_away_is_counted_and_delays_the_end_by_little() -> None:
    # A process of its own: the exporter's thread goes on trying for as long as its process lives.
    endpoint = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", PROGRAM_WITHOUT_BACKEND, endpoint]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    n_dropped, shutdown_s = map(float, done.stdout.split())
    assert n_dropped > 0
    assert shutdown_s < SHUTDOWN_S + SLACK_S


def test_without_an_endpoint_nothing_is_recorded(tmp_path: Path) -> None:
    with tracing("off", "one", None, ratio=1.0) as traces:
        span = traces.tracer.start_span("work")
        assert not span.is_recording()
        assert traces.dropped_spans() == 0
