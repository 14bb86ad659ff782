from pathlib import Path

import pytest

from benchmarks.router_batches import Cut
from benchmarks.triton_load import Answered, arrived, client_process, closed_loop, open_loop
from benchmarks.triton_runs import ServerSetting, running_triton, write_repository

MODEL = "direction_fast"
MS = 1_000_000


def test_latencies_are_those_of_the_events_that_were_answered() -> None:
    found = arrived(100.0, [0, 10 * MS, 20 * MS, 30 * MS], {3: 34 * MS, 0: 2 * MS, 2: 23 * MS})
    assert (found.n_answered, found.n_failed) == (3, 1)
    assert found.latencies.p50_s == pytest.approx(0.003)
    assert found.latencies.backlog_s == pytest.approx(0.004)


def test_a_rate_counts_events_and_not_requests() -> None:
    assert Answered(n_requests=10, n_events=80, n_failed=0, seconds=2.0).events_per_s == 40.0


def test_a_real_server_counts_what_a_client_asked_for(tmp_path: Path) -> None:
    # With more than one event a request and no room for two requests, nothing can be merged.
    setting = ServerSetting(4, 0, n_instances=1, n_threads=1, has_queue_policy=False)
    repository = write_repository(tmp_path / "models", MODEL, setting)
    with running_triton(repository, tmp_path / "run") as server, client_process(12) as client:
        before = server.counters()
        answered = client.submit(closed_loop, server.target, MODEL, Cut(12, 4), 0.1).result()
        assert answered.n_failed == 0
        assert answered.n_events == 4 * answered.n_requests
        # Whole windows alone.
        assert answered.n_events % 12 == 0
        assert server.executed_since(before, answered.n_requests).batch == 4.0

        before = server.counters()
        found = client.submit(open_loop, server.target, MODEL, 20.0, 1.0, seed=1).result()
        assert (found.n_answered, found.n_failed) == (20, 0)
        assert 0 < found.latencies.p50_s <= found.latencies.p99_s
        executed = server.executed_since(before, found.n_answered)
        assert executed.batch >= 1
        assert executed.compute_ms > 0
