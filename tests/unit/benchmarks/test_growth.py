"""What the benchmark of growth makes of events and of measurements."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth, growth_report
from benchmarks.growth_events import STORED_BEYOND_PAYLOAD_BYTES, Room, mean_bytes, resized, stored_bytes
from benchmarks.growth_report import Point, by_size, draw_memory, draw_points, parts_of
from benchmarks.growth_soak import Memory, Soak, Waits, by_process, first_and_last, process_name
from benchmarks.load import Drained, sample_events
from benchmarks.stack_runs import EMITTER, OTHER
from icestream.codec import encode_event
from icestream.physics.detector import icecube86
from icestream.physics.events import MAX_PULSES, check_event

S = 1_000_000_000


def point(size: int, **cpu_s: float) -> Point:
    drained = Drained(100, 2.0, {EMITTER: 9.0} | cpu_s, 300.0)
    return Point(size, n_pulses=10.0, payload_bytes=200.0, drained=drained, broker_mib=30.0)


def soaked() -> Soak:
    memory = [Memory("router", [0.0, 30.0, 60.0], [100.0, 110.0, 111.0])]
    return Soak(50.0, 60.0, 20.0, memory, Waits(900, 0.004, 0.02), Waits(901, 0.005, 0.03), 3000, 2)


@pytest.mark.parametrize("n_pulses", [1, 8, 50, 500, 5000, MAX_PULSES])
def test_a_resized_event_is_valid_and_has_exactly_so_many_pulses(n_pulses: int) -> None:
    for event in sample_events(5):
        changed = resized(event, n_pulses)
        check_event(changed, icecube86().n_sensors)
        assert len(changed.pulses) == n_pulses
        assert (np.diff(changed.pulses.time_ns) >= 0).all()
        assert changed.id == event.id


def test_an_event_of_its_own_size_stays_as_it_is() -> None:
    [event] = sample_events(1)
    assert encode_event(resized(event, len(event.pulses))) == encode_event(event)


def test_a_shorter_event_has_pulses_of_the_whole_readout() -> None:
    [event] = sample_events(1)
    times_ns, all_ns = resized(event, 8).pulses.time_ns, event.pulses.time_ns
    assert set(times_ns) <= set(all_ns)
    assert np.ptp(times_ns) > 0.5 * np.ptp(all_ns)


def test_repeated_pulses_hardly_ever_come_at_the_same_time() -> None:
    [event] = sample_events(1)
    pulses = resized(event, 20 * len(event.pulses)).pulses
    seen = np.column_stack([pulses.sensor_id, pulses.time_ns, pulses.charge_pe])
    assert len(np.unique(seen, axis=0)) > 0.99 * len(seen)
    assert (np.bincount(pulses.sensor_id) == 20 * np.bincount(event.pulses.sensor_id)).all()


def test_the_room_that_events_need_is_their_payload_and_what_comes_with_it() -> None:
    sample = sample_events(3)
    total = sum(len(encode_event(event)) for event in sample)
    assert mean_bytes(sample) == pytest.approx(total / 3)
    assert stored_bytes(sample, 6) == pytest.approx(2 * total + 6 * STORED_BEYOND_PAYLOAD_BYTES)


def test_events_for_which_there_is_room_are_not_refused(tmp_path: Path) -> None:
    Room(1000, 1000).check(1000.0)
    assert Room.of(tmp_path, 77).stream_bytes == 77
    assert Room.of(tmp_path, 77).disk_bytes > 0


@pytest.mark.parametrize(
    ("room", "problem"),
    [(Room(10**9, 10**12), r"need 3\.0 GB; the stream takes 1\.0"), (Room(10**12, 2 * 10**9), "disk has 2")],
)
def test_what_lacks_room_is_named(room: Room, problem: str) -> None:
    with pytest.raises(RuntimeError, match=problem):
        room.check(3e9)


def test_a_drain_of_long_events_has_fewer_of_them() -> None:
    settings = growth.Settings(n_events=600, drain_pulses=10_000)
    assert [settings.n_events_of(n) for n in (10, 100, 1000, 50_000)] == [600, 100, 10, 1]


def test_rates_and_costs_are_those_of_the_drain() -> None:
    one = point(4, broker=0.01, router=0.02)
    assert one.pulses_per_s == pytest.approx(500.0)
    assert one.mb_per_s == pytest.approx(0.01)
    assert one.cost_us("router") == pytest.approx(200.0)
    assert one.cost_us("router 2") == 0.0
    assert one.total_cost_us == pytest.approx(300.0), "the emitter is not a part of a drain"


def test_points_are_grouped_from_small_to_large() -> None:
    assert [(size, len(chosen)) for size, chosen in by_size([point(9), point(1), point(9)]).items()] == [
        (1, 1),
        (9, 2),
    ]


def test_routers_stand_beside_each_other_and_others_last() -> None:
    cpu_s = {OTHER: 1.0, "router": 1.0, "recorder": 1.0, "router 2": 1.0}
    assert parts_of([point(1, **cpu_s)]) == [EMITTER, "recorder", "router", "router 2", OTHER]


def test_the_tables_have_a_row_for_each_size() -> None:
    points = [point(size, router=0.01 * size) for size in (1, 2, 2)]
    for table in (growth_report.rate_table("routers", points), growth_report.cost_table("routers", points)):
        assert table.row_count == 2
        assert list(table.columns[0].cells) == ["1", "2"]


def test_the_tables_of_a_soak_name_what_was_not_answered() -> None:
    table = growth_report.wait_table(soaked())
    assert "without an answer: 2" in str(table.caption)
    assert list(table.columns[3].cells) == ["20.0", "30.0"]
    memory = growth_report.memory_table(soaked())
    assert [list(column.cells) for column in memory.columns] == [["router"], ["110.0"], ["111.0"], ["+120.0"]]


def test_pictures_are_drawn(tmp_path: Path) -> None:
    points = [point(size, router=0.01 * size) for size in (10, 100, 100)]
    draw_points("pulses", points, tmp_path / "points.png", logarithmic="xy")
    draw_points("routers", points, tmp_path / "routers.png", logarithmic="")
    draw_memory(soaked(), tmp_path / "memory.png")
    for name in ("points", "routers", "memory"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_slope_is_that_of_the_second_half() -> None:
    at_s = [5.0 * number for number in range(121)]
    rising = Memory("a", at_s, [100.0 if at < 300 else 100 + (at - 300) / 60 for at in at_s])
    assert rising.mib_per_hour() == pytest.approx(60.0)
    warming_up = Memory("b", at_s, [min(at, 200.0) for at in at_s])
    assert warming_up.mib_per_hour() == pytest.approx(0.0, abs=1e-9)


def test_a_process_that_was_hardly_there_has_no_slope() -> None:
    assert np.isnan(Memory("a", [3.0], [10.0]).mib_per_hour())


def test_memory_is_read_at_the_nearest_measurement() -> None:
    memory = Memory("a", [0.0, 5.0, 10.1], [1.0, 2.0, 3.0])
    assert [memory.at(seconds) for seconds in (-1.0, 4.0, 8.0, 60.0)] == [1.0, 2.0, 3.0, 3.0]


def test_each_process_has_its_own_series_and_a_restarted_one_a_new_number() -> None:
    measured = [
        (0.0, {7: ("router", 10.0), 8: ("broker", 20.0)}),
        (5.0, {7: ("router", 11.0), 8: ("broker", 21.0)}),
        (10.0, {9: ("router", 5.0), 8: ("broker", 22.0)}),
    ]
    assert by_process(measured) == [
        Memory("router", [0.0, 5.0], [10.0, 11.0]),
        Memory("broker", [0.0, 5.0, 10.0], [20.0, 21.0, 22.0]),
        Memory("router (2)", [10.0], [5.0]),
    ]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/opt/venv/bin/nats-server --store_dir /tmp/icestream-1/nats", "broker"),
        ("/usr/bin/python -m services.scanner.coordinator --nats-url nats://x", "scanner"),
        ("setpriv --pdeathsig KILL /x/tritonserver/backends/triton_python_backend_stub", "model server's backend"),
        ("/usr/bin/python /opt/venv/bin/icestream up --dir /tmp/x", "supervisor"),
        ("/usr/bin/sleep 5", "other"),
    ],
)  # fmt: skip
def test_a_process_is_named_by_its_command_line(command: str, name: str) -> None:
    assert process_name(command.split()) == name


def test_latencies_at_both_ends_leave_out_what_was_not_answered() -> None:
    due = [number * S for number in range(10)]
    available = {
        number: at + S * (1 + (number >= 5)) for number, at in enumerate(due) if number not in (1, 9)
    }
    first, last = first_and_last(due, available, window_s=3.0)
    assert (first.n_events, last.n_events) == (2, 2)
    assert first.p50_s == pytest.approx(1.0)
    assert last.p99_s == pytest.approx(2.0)


def test_without_any_answer_there_is_no_latency() -> None:
    first, last = first_and_last([0, S], {}, window_s=1.0)
    assert (first.n_events, last.n_events) == (0, 0)
    assert np.isnan(first.p50_s)


def test_an_unknown_part_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["growth", "streams", "stream"])
    with pytest.raises(SystemExit):
        growth.main()
    assert "'stream' is none of routers, sizes, streams, soak" in capsys.readouterr().err
