from dataclasses import replace

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from benchmarks.triton_runs import (
    CONFIG_FILE,
    Counters,
    Executed,
    ServerSetting,
    changed_config,
    difference,
    events_computed_together,
    read_counters,
    read_setting,
    shipped_folder,
)

MODELS = ("direction", "direction_fast")
OTHER = ServerSetting(
    max_batch_size=4, max_queue_delay_us=3000, n_instances=1, n_threads=2, has_queue_policy=False
)
METRICS = """\
# HELP nv_inference_count Number of inferences performed (does not include cached requests)
# TYPE nv_inference_count counter
nv_inference_count{model="direction",version="1"} 5
nv_inference_count{model="direction",version="2"} 40
nv_inference_exec_count{model="direction",version="2"} 9
nv_inference_request_success{model="direction",version="2"} 10
nv_inference_queue_duration_us{model="direction",version="2"} 2000
nv_inference_compute_input_duration_us{model="direction",version="2"} 100
nv_inference_compute_infer_duration_us{model="direction",version="2"} 3e+04
nv_inference_compute_output_duration_us{model="direction",version="2"} 200
nv_inference_pending_request_count{model="direction",version="2"} 77
"""


def shipped_config(model: str) -> str:
    return (shipped_folder(model) / CONFIG_FILE).read_text()


def parsed(config: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(config, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("model", MODELS)
def test_a_changed_configuration_says_what_was_asked_for(model: str) -> None:
    assert read_setting(changed_config(shipped_config(model), OTHER)) == OTHER


@pytest.mark.parametrize("model", MODELS)
def test_nothing_changes_in_the_shipped_setting(model: str) -> None:
    config = shipped_config(model)
    assert parsed(changed_config(config, read_setting(config))) == parsed(config)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_warms_up_with_no_more_than_it_takes(model: str) -> None:
    changed = parsed(changed_config(shipped_config(model), OTHER))
    assert [sample.batch_size for sample in changed.model_warmup] == [4, 1]


def test_a_queue_policy_brings_priorities_and_leaves_the_delay() -> None:
    config = shipped_config("direction")
    setting = replace(read_setting(config), has_queue_policy=True)
    changed = changed_config(config, setting)
    assert parsed(changed).dynamic_batching.priority_levels == 2
    assert read_setting(changed) == setting


@pytest.mark.parametrize(("model", "n_events"), [("direction", 8), ("direction_fast", 32)])
def test_the_fastest_batch_is_what_the_server_computes_together(model: str, n_events: int) -> None:
    assert events_computed_together(model) == n_events


def test_counters_are_summed_over_versions_and_parts_of_computing() -> None:
    assert read_counters(METRICS) == Counters(10, 45, 9, 2000, 30_300)


def test_missing_counters_are_named() -> None:
    with pytest.raises(ValueError, match="no nv_inference_request_success"):
        read_counters("nv_inference_count 3\n")


def test_a_difference_counts_what_came_in_between() -> None:
    before, after = Counters(10, 45, 9, 2000, 30_300), Counters(12, 61, 11, 5000, 70_300)
    assert difference(after, before) == Executed(batch=8.0, queue_ms=1.5, compute_ms=20.0)
