import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icestream.physics.detector import icecube86
from icestream.physics.events import Pulses
from icestream.physics.layout import layout_of
from icestream.physics.pmt import Hit
from icestream.physics.readout import SATURATION_PE, _coincident, read_out
from tests.unit.physics.physics_cases import record_of

LAYOUT = layout_of(icecube86())


def pairs(n: int, every_ns: float, start_ns: float = 10_000.0) -> list[Hit]:
    """Hits of n / 2 pairs of neighbouring modules, each pair on a string of its own."""
    return [(60 * (i // 2) + i % 2, start_ns + i * every_ns, 1.0) for i in range(n)]


def recorded(hits: list[Hit]) -> Pulses:
    return read_out(record_of(hits, LAYOUT))


def test_eight_coincident_modules_within_five_microseconds_trigger() -> None:
    pulses = recorded(pairs(8, every_ns=700.0))

    assert len(pulses) == 8
    assert pulses.is_hlc.all()


def test_seven_coincident_modules_do_not_trigger() -> None:
    assert len(recorded([*pairs(6, every_ns=10.0), (1000, 10_000.0, 1.0)])) == 0


def test_eight_coincident_modules_over_more_than_five_microseconds_do_not_trigger() -> None:
    assert len(recorded(pairs(8, every_ns=720.0))) == 0


@pytest.mark.parametrize(
    ("other", "is_coincident"),
    [
        ((1002, 10_999.0, 1.0), True),
        ((1002, 11_001.0, 1.0), False),
        ((1003, 10_000.0, 1.0), False),
        ((1000, 10_500.0, 1.0), False),
        ((1001, 10_000.0, 0.2), False),
    ],
    ids=["second neighbour", "too late", "third neighbour", "same module", "below threshold"],
)
def test_coincidence_needs_a_near_module_within_a_microsecond(other: Hit, is_coincident: bool) -> None:
    pulses = recorded([*pairs(8, every_ns=10.0), (1000, 10_000.0, 1.0), other])

    assert pulses.is_hlc[pulses.sensor_id == 1000][0] == is_coincident


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 400))
def test_coincidences_are_those_of_all_pairs(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    # Few modules, across the ends of two strings, and times on a grid, so that limits are met exactly.
    sensors, times = 55 + rng.integers(0, 10, n), 100.0 * rng.integers(0, 60, n)
    hits = [(int(s), t, q) for s, t, q in zip(sensors, times, rng.choice((0.2, 1.0), n), strict=True)]
    trace = record_of(hits, LAYOUT).trace
    sensor, time, charge = trace

    near = np.abs(time[:, None] - time) <= 1000
    neighbours = (np.abs(sensor[:, None] - sensor) <= 2) & (sensor[:, None] != sensor)
    on_one_string = (sensor[:, None] < 60) == (sensor < 60)
    above = charge >= 0.25
    expected = above & (near & neighbours & on_one_string & above).any(axis=1)

    np.testing.assert_array_equal(_coincident(trace, LAYOUT.string_of), expected)


def test_ends_of_neighbouring_strings_are_not_coincident() -> None:
    pulses = recorded([*pairs(8, every_ns=10.0), (1019, 10_000.0, 1.0), (1020, 10_000.0, 1.0)])

    assert not pulses.is_hlc[np.isin(pulses.sensor_id, (1019, 1020))].any()


def test_readout_reaches_from_four_microseconds_before_the_trigger_to_six_after() -> None:
    first_ns, last_ns = 10_000.0, 10_070.0
    times = (first_ns - 4001, first_ns - 4000, last_ns + 5999, last_ns + 6000)
    around = [(3000 + 100 * i, time, 1.0) for i, time in enumerate(times)]

    pulses = recorded([*pairs(8, every_ns=10.0), *around])

    np.testing.assert_array_equal(pulses.sensor_id[pulses.sensor_id >= 3000], [3100, 3200])
    np.testing.assert_array_equal(pulses.time_ns[[0, -1]], [0.0, 10_069.0])


def test_pulses_are_in_order_of_time_with_rounded_times_and_charges() -> None:
    hits = [(sensor, time + 0.3, 1.02) for sensor, time, _ in reversed(pairs(8, every_ns=10.0))]

    pulses = recorded(hits)

    assert (np.diff(pulses.time_ns) == 10.0).all()
    np.testing.assert_array_equal(pulses.time_ns, np.rint(pulses.time_ns))
    np.testing.assert_allclose(pulses.charge_pe, 1.025)


def test_photons_that_come_together_make_one_pulse() -> None:
    pulses = recorded([*pairs(8, every_ns=10.0), (0, 10_003.0, 1.0), (0, 10_020.0, 1.0)])

    np.testing.assert_allclose(pulses.charge_pe[pulses.sensor_id == 0], [2.0, 1.0], atol=0.02)


def test_charge_of_a_pulse_saturates() -> None:
    pulses = recorded([*pairs(8, every_ns=10.0), (0, 10_003.0, 1e9)])

    assert pulses.charge_pe.max() == pytest.approx(SATURATION_PE, rel=1e-3)


def test_later_pulses_of_a_full_waveform_are_coincident_too() -> None:
    pulses = recorded([*pairs(8, every_ns=10.0), (0, 15_000.0, 0.1), (2000, 15_000.0, 0.1)])

    assert pulses.is_hlc.all()
    assert len(pulses) == 9
