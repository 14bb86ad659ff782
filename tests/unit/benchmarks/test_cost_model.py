import json

import pytest

from benchmarks.cost_model import CostModel, Run, read_run


def a_run(batch: int, cost_us: float, in_process_per_s: float = 1e6, model: str = "trivial") -> Run:
    return Run(model, batch, 2, in_process_per_s, 1000.0, cost_us)


def test_costs_of_events_and_requests_are_found_again() -> None:
    costs = CostModel.fitted([a_run(batch, 200 + 800 / batch + 2) for batch in (1, 8, 64)])
    assert (costs.event_us, costs.request_us) == pytest.approx((200, 800))


def test_a_rate_follows_from_the_costs_of_the_model_and_of_all_else() -> None:
    run = a_run(32, 0.0, in_process_per_s=5000.0, model="direction_fast")
    costs = CostModel(200.0, 800.0)
    assert costs.cost_us(run) == pytest.approx(200 + 25 + 400)
    assert costs.events_per_s(run) == pytest.approx(0.85 * 2e6 / 625)


def test_one_batch_cannot_tell_events_from_requests() -> None:
    with pytest.raises(ValueError, match="two different --batch"):
        CostModel.fitted([a_run(8, 300.0), a_run(8, 310.0)])


def written(n_routers: int = 1, *, records_later: bool = False) -> str:
    """What a run of the pipeline left, in three rounds."""
    rounds = [
        {
            "in_process_per_s": 5000.0 + number,
            "drained": {
                "0.0": {"n_events": 1, "seconds": 1.0, "cpu_s": {}},
                "0.01": {
                    "n_events": 1000,
                    "seconds": 0.5 * (1 + number),
                    "cpu_s": {"emitter": 9.0, "router": 0.1 * (1 + number), "broker": 0.1},
                },
            },
        }
        for number in range(3)
    ]
    settings = {"model": "direction", "batch": 8, "routers": n_routers, "records_later": records_later}
    return json.dumps({"machine": {"n_cores": 2}, "settings": settings, "rounds": rounds})


def test_a_run_is_read_as_the_median_of_its_rounds_without_the_emitter() -> None:
    run = read_run(written())
    assert run is not None
    assert (run.model, run.batch, run.n_cores) == ("direction", 8, 2)
    assert (run.in_process_per_s, run.pipeline_per_s) == (5001.0, 1000.0)
    assert run.cost_us == pytest.approx(300.0)


def test_runs_with_more_routers_or_without_the_recorders_work_are_left_out() -> None:
    assert read_run(written(n_routers=2)) is None
    assert read_run(written(records_later=True)) is None
