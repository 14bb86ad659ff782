import pytest
from prometheus_client import CollectorRegistry

from services.recorder.metrics import RecorderMetrics
from services.recorder.schema import METADATA


@pytest.mark.parametrize("table", METADATA.tables)
@pytest.mark.parametrize("counter", ["rows", "duplicates", "redelivered", "postponed"])
def test_a_counter_of_each_table_is_there_before_it_counts(counter: str, table: str) -> None:
    registry = CollectorRegistry()
    RecorderMetrics(registry)
    assert registry.get_sample_value(f"icestream_recorder_{counter}_total", {"table": table}) == 0
