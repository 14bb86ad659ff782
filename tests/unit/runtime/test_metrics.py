import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from icestream.runtime.metrics import ServiceMetrics, observe_all

BOUNDS = (0.1, 1.0, 10.0)
amounts = st.sampled_from((*BOUNDS, 0.0, -1.0, 0.5, 1e9)) | st.floats(-1e6, 1e6)


def exposed(one_by_one: list[float], together: list[list[float]]) -> list[bytes]:
    """Lines about two histograms that saw the same; without the times of their making."""
    found = []
    for feed in ("alone", "together"):
        registry = CollectorRegistry()
        histogram = Histogram("seconds", "Any.", buckets=BOUNDS, registry=registry)
        if feed == "alone":
            for amount in one_by_one:
                histogram.observe(amount)
        else:
            for some in together:
                observe_all(histogram, some)
        lines = generate_latest(registry).splitlines()
        found.append(b"\n".join(line for line in lines if b"_created" not in line and b"_sum" not in line))
        assert registry.get_sample_value("seconds_sum") == pytest.approx(sum(one_by_one), rel=1e-9, abs=1e-3)
    return found


@given(st.lists(st.lists(amounts, max_size=20), max_size=4))
def test_amounts_that_are_observed_together_count_as_each_does_alone(together: list[list[float]]) -> None:
    alone, bulk = exposed([amount for some in together for amount in some], together)
    assert alone == bulk


def test_what_is_no_number_is_in_no_bucket() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "Any.", buckets=BOUNDS, registry=registry)
    observe_all(histogram, [np.nan, 0.5])
    assert registry.get_sample_value("seconds_count") == 1


def test_a_service_says_since_when_its_process_runs_and_what_it_takes() -> None:
    registry = CollectorRegistry()
    ServiceMetrics(registry, "icestream-router", "a")
    us = psutil.Process()
    assert registry.get_sample_value("process_start_time_seconds") == pytest.approx(us.create_time(), abs=1.0)
    memory = registry.get_sample_value("process_resident_memory_bytes")
    assert memory == pytest.approx(us.memory_info().rss, rel=0.2)
