"""The tables say what the formulas say that they were made from."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.pixel_fit.tables import (
    FIRST_DELAY_NS,
    ICE_STEP_M,
    LAST_DELAY_NS,
    MAX_SHAPE,
    MIN_HEIGHT_M,
    MIN_LOG,
    MIN_SHAPE,
    N_DELAYS,
    N_SHAPES,
    SIGMAS_NS,
    STANDARD_RATE_PER_NS,
    Arrival,
    IceDepths,
    TimingTable,
    delay_axis,
    shape_axis,
    timing_table,
)
from icestream.physics import track_likelihood
from icestream.physics.convoluted_pandel import log_pdf, log_sf
from icestream.physics.ice import ice_table, mean_lengths_m
from icestream.physics.pandel import delay_rate_per_ns, scattering_scale_m

FloatArray = NDArray[np.float64]

TOLERANCE = 0.01
"""Of both logarithms; interpolation between grid points is at most so wrong."""
COUNTS = -15.0
"""Log densities below this disappear in the noise floor of -11.5."""
N_POINTS = 2000
blurs = pytest.mark.parametrize("blur", range(len(SIGMAS_NS)))


@pytest.fixture(scope="module")
def table() -> TimingTable:
    """In float64, so that differences can be small."""
    return TimingTable().double()


def random_points(blur: int, n: int = N_POINTS) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Delays, shapes and relative rates inside the table; delays also well before the unscattered light."""
    rng = np.random.default_rng(blur)
    rate = rng.uniform(0.6, 2.5, n)
    bent = rng.uniform(np.arcsinh(-5 * SIGMAS_NS[blur] / 10), np.arcsinh(LAST_DELAY_NS / 10), n)
    return 10 * np.sinh(bent) / rate, rng.uniform(np.sqrt(0.1), np.sqrt(MAX_SHAPE), n) ** 2, rate


def look_up(table: TimingTable, blur: int, *columns: FloatArray) -> Arrival:
    """As one pixel's hits; each tensor of shape (n,)."""
    tensors = [torch.from_numpy(column)[None] for column in columns]
    return Arrival(*(part[0] for part in table(table.cells(), torch.tensor([blur]), *tensors)))


def exact(blur: int, delay: FloatArray, shape: FloatArray, rate: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The law whose rate and blur are both stretched."""
    law = (delay, shape, rate * STANDARD_RATE_PER_NS, SIGMAS_NS[blur] / rate)
    return log_pdf(*law), log_sf(*law)


def test_axes_cover_the_table() -> None:
    delays, shapes = delay_axis(), shape_axis()

    assert (delays[0], delays[-1]) == pytest.approx((FIRST_DELAY_NS, LAST_DELAY_NS))
    assert (shapes[0], shapes[-1]) == pytest.approx((MIN_SHAPE, MAX_SHAPE))
    assert (np.diff(delays) > 0).all()
    assert (np.diff(shapes) > 0).all()
    assert timing_table().shape == (len(SIGMAS_NS), N_DELAYS, N_SHAPES, 2)
    assert timing_table().min() == MIN_LOG


@blurs
def test_table_says_what_the_law_says(table: TimingTable, blur: int) -> None:
    points = random_points(blur)
    log_pdfs, log_sfs = exact(blur, *points)

    arrival = look_up(table, blur, *points)

    for actual, expected in ((arrival.log_pdf, log_pdfs), (arrival.log_sf, log_sfs)):
        counts = expected > COUNTS
        assert counts.sum() > N_POINTS / 4
        np.testing.assert_allclose(actual.numpy()[counts], expected[counts], rtol=0, atol=TOLERANCE)


@blurs
def test_grid_points_are_exact(table: TimingTable, blur: int) -> None:
    delays, shapes = np.meshgrid(delay_axis()[40:-40:30], shape_axis()[5:-5:20])
    points = delays.ravel(), shapes.ravel(), np.ones(delays.size)

    arrival = look_up(table, blur, *points)

    for actual, expected in zip((arrival.log_pdf, arrival.log_sf), exact(blur, *points), strict=True):
        np.testing.assert_allclose(actual.numpy(), np.maximum(expected, MIN_LOG), rtol=0, atol=1e-5)


@blurs
def test_slopes_are_those_of_the_interpolation(table: TimingTable, blur: int) -> None:
    delay, shape, rate = random_points(blur)
    arrival = look_up(table, blur, delay, shape, rate)
    small = 1e-6

    for steps, slopes in (
        ((small, 0.0), (arrival.log_pdf_per_ns, arrival.log_sf_per_ns)),
        ((0.0, small), (arrival.log_pdf_per_shape, arrival.log_sf_per_shape)),
    ):
        before = look_up(table, blur, delay - steps[0], shape - steps[1], rate)
        after = look_up(table, blur, delay + steps[0], shape + steps[1], rate)
        for early, late, slope in ((before[0], after[0], slopes[0]), (before[1], after[1], slopes[1])):
            np.testing.assert_allclose((late - early) / (2 * small), slope, rtol=1e-5, atol=1e-6)


def test_table_has_no_steps_between_its_cells(table: TimingTable) -> None:
    delays = np.linspace(-200, 2000, 200_001)

    arrival = look_up(table, 1, delays, np.full_like(delays, 1.7), np.ones_like(delays))

    steps = np.abs(np.diff(arrival.log_pdf.numpy()))
    np.testing.assert_array_less(steps, 1.01 * 0.011 * np.abs(arrival.log_pdf_per_ns.numpy()).max())


@pytest.mark.parametrize("delay", [-1e6, -601.0, 0.0, 8001.0, 1e6])
@pytest.mark.parametrize("shape", [0.0, 0.01, 61.0, 1e4])
@blurs
def test_table_is_finite_beyond_its_edges(table: TimingTable, blur: int, delay: float, shape: float) -> None:
    arrival = look_up(table, blur, *map(np.atleast_1d, (delay, shape, 1.3)))

    assert all(torch.isfinite(part).all() for part in arrival)


def test_ice_is_that_of_the_formulas() -> None:
    rng = np.random.default_rng(1)
    z_end, climb = rng.uniform(-700, 700, 500), rng.uniform(-300, 300, 500)
    climb = np.where(np.abs(climb) < MIN_HEIGHT_M, MIN_HEIGHT_M, climb)
    ice = IceDepths().double()
    heights = torch.from_numpy(z_end)

    per_scale, rate = ice.along(ice.upto(heights), heights, torch.from_numpy(climb)[None])

    lengths = [mean_lengths_m(ice_table(ICE_STEP_M), z - dz, z) for z, dz in zip(z_end, climb, strict=True)]
    scattering, absorption = np.array(lengths).T
    # Within what is left by differences of integrals in float32, as the table is stored.
    np.testing.assert_allclose(1 / per_scale[0], scattering_scale_m(scattering), rtol=1e-4)
    np.testing.assert_allclose(rate[0] * STANDARD_RATE_PER_NS, delay_rate_per_ns(absorption), rtol=1e-4)


def test_level_paths_see_the_ice_below_the_module() -> None:
    ice = IceDepths()
    heights = torch.tensor([-300.0, -100.0, 200.0])
    level = torch.tensor([[0.0, 4.9, -4.9]])

    per_scale, rate = ice.along(ice.upto(heights), heights, level)
    expected = ice.along(ice.upto(heights), heights, torch.full((1, 3), MIN_HEIGHT_M))

    assert torch.equal(per_scale, expected[0])
    assert torch.equal(rate, expected[1])


def test_the_reference_takes_as_much_height_for_level_paths() -> None:
    assert track_likelihood.ICE_STEP_M == ICE_STEP_M == MIN_HEIGHT_M
