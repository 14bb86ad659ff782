import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from icestream.physics.cherenkov import (
    C_M_PER_NS,
    COS_CHERENKOV,
    N_GROUP,
    N_PHASE,
    SIN_CHERENKOV,
    track_charge_pe,
)
from icestream.physics.directions import unit_vectors
from icestream.physics.ice import absorption_length_m, ice_table, mean_lengths_m, scattering_length_m
from icestream.physics.pandel import LAMBDA_M, delay_rate_per_ns
from icestream.physics.track_likelihood import (
    ICE_STEP_M,
    MAX_DARK_PE,
    MAX_DARKNESS,
    NOISE,
    NOISE_NS,
    FirstLight,
    TrackPoint,
    darkness,
    first_light,
    log_likelihoods,
    photons,
    track_llh,
)

FloatArray = NDArray[np.float64]

FROM_ABOVE = np.array([0.0, 0.0, 1.0])
AT_CENTRE = TrackPoint((0.0, 0.0, 0.0), 0.0)
STANDARD_RATE = delay_rate_per_ns(98.0)

directions = st.builds(unit_vectors, st.floats(0, 2 * np.pi), st.floats(0, np.pi))
seeds = st.integers(0, 2**32 - 1)
sigmas = st.sampled_from((80.0, 25.0, 10.0, 3.0))


def random_hits(rng: np.random.Generator, n: int = 12) -> FloatArray:
    """Anywhere in the detector at any time of a readout."""
    low, high = (-500, -500, -500, -1000, 0), (500, 500, 500, 6000, 50)
    return rng.uniform(low, high, (n, 5))


def hit_at(x: float, y: float, z: float, time_ns: float = 0.0, charge_pe: float = 1.0) -> FloatArray:
    return np.array([[x, y, z, time_ns, charge_pe]])


def light_of(delay_ns: FloatArray, shape: float, rate: float = STANDARD_RATE) -> FirstLight:
    return FirstLight(delay_ns, np.full_like(delay_ns, shape), np.full_like(delay_ns, rate))


def test_light_of_a_vertical_muon_takes_the_way_of_a_cherenkov_photon() -> None:
    # Muon downwards; the photon leaves it above the module and travels with the group velocity.
    light = first_light(FROM_ABOVE, AT_CENTRE, hit_at(30.0, 40.0, -100.0, 500.0))

    distance = math.hypot(50.0, 1.0)
    path = distance / SIN_CHERENKOV
    muon_m = 100.0 - path * COS_CHERENKOV
    assert light.delay_ns[0] == pytest.approx(500.0 - (muon_m + path * N_GROUP) / C_M_PER_NS)


def test_scattering_is_that_of_the_ice_on_the_way() -> None:
    light = first_light(FROM_ABOVE, AT_CENTRE, hit_at(50.0, 0.0, -100.0))

    distance = math.hypot(50.0, 1.0)
    cos_up = -1 / N_PHASE
    emission_z = -100.0 + distance / math.tan(math.acos(1 / N_PHASE))
    z = np.linspace(emission_z, -100.0, 2001)
    effective = 0.8395 * distance + 3.094 - 3.946 * cos_up + 4.636 * cos_up**2
    assert light.shape[0] == pytest.approx(
        effective * (1 / scattering_length_m(z)).mean() * 29.0 / LAMBDA_M, rel=5e-3
    )
    assert light.rate_per_ns[0] == pytest.approx(
        delay_rate_per_ns(float(1 / (1 / absorption_length_m(z)).mean())), rel=5e-3
    )


@given(st.floats(0, 2 * np.pi), st.floats(-600, 600))
def test_level_light_sees_the_ice_below_its_module(azimuth: float, z: float) -> None:
    # A muon that climbs by 90 degrees less the Cherenkov angle sends some of its light level.
    level, up = unit_vectors(azimuth, np.pi / 2), FROM_ABOVE
    travel = COS_CHERENKOV * level + SIN_CHERENKOV * up
    place = np.array([0.0, 0.0, z]) + 40.0 * (SIN_CHERENKOV * level - COS_CHERENKOV * up)

    light = first_light(-travel, TrackPoint((0.0, 0.0, z), 0.0), hit_at(*place))

    _, absorption = mean_lengths_m(ice_table(ICE_STEP_M), place[2] - ICE_STEP_M, place[2])
    assert light.rate_per_ns[0] == pytest.approx(delay_rate_per_ns(absorption))


def test_likelihood_of_one_photon_beside_the_track_is_the_blurred_law_and_noise() -> None:
    # One scattering length of way: the law is an exponential, blurred an exponentially modified Gaussian.
    light = light_of(np.array([-40.0, 0.0, 75.0, 600.0]), 1.0)

    density = stats.exponnorm(1 / (STANDARD_RATE * 25.0), scale=25.0).pdf(light.delay_ns)
    np.testing.assert_allclose(
        log_likelihoods(light, np.ones(4), sigma_ns=25.0),
        np.log(0.9 * density + 0.1 / 10_000),
        atol=1e-5,
    )


def test_likelihood_of_the_first_of_many_photons_counts_on_all_others_to_be_later() -> None:
    light = light_of(np.array([-10.0, 20.0, 75.0]), 1.0)

    law = stats.exponnorm(1 / (STANDARD_RATE * 10.0), scale=10.0)
    first = 5 * law.pdf(light.delay_ns) * law.sf(light.delay_ns) ** 4
    np.testing.assert_allclose(
        log_likelihoods(light, np.full(3, 5.0), sigma_ns=10.0), np.log(0.9 * first + 1e-5), atol=1e-5
    )


@given(st.floats(0.05, 20), st.floats(0.0025, 0.015), sigmas, st.sampled_from((1.0, 2.0, 20.0)))
def test_light_comes_some_time_and_noise_any_time(
    shape: float, rate: float, sigma: float, n_photons: float
) -> None:
    width = sigma * STANDARD_RATE / rate
    last = (shape + 12 * math.sqrt(shape) + 30) / rate
    # Of the first photon's time, close enough near the blurred edge to integrate over it.
    delays = np.concatenate(
        (np.linspace(-8 * width, 8 * width, 801)[:-1], np.geomspace(8 * width, 8 * width + last, 1500))
    )
    noise = NOISE / NOISE_NS * (delays[-1] - delays[0])

    terms = log_likelihoods(light_of(delays, shape, rate), np.full_like(delays, n_photons), sigma_ns=sigma)

    assert np.trapezoid(np.exp(terms), delays) - noise == pytest.approx(1 - NOISE, abs=3e-3)


@given(seeds, directions, sigmas)
def test_one_photon_of_many_allowed_is_spe(seed: int, direction: FloatArray, sigma: float) -> None:
    hits = random_hits(np.random.default_rng(seed))
    hits[:, 4] = np.minimum(hits[:, 4], 1.4)

    spe = track_llh(direction, AT_CENTRE, hits, sigma_ns=sigma, max_photons=1)

    assert track_llh(direction, AT_CENTRE, hits, sigma_ns=sigma, max_photons=20) == spe


def test_charge_counts_as_whole_photons_within_limits() -> None:
    assert photons([0.0, 0.3, 1.4, 1.6, 7.2, 90.0], 20.0).tolist() == [1, 1, 1, 2, 7, 20]
    assert photons([0.3, 90.0], 1.0).tolist() == [1, 1]


@given(seeds, directions, st.floats(-1e4, 1e4))
def test_llh_does_not_care_which_point_of_the_track_is_named(
    seed: int, direction: FloatArray, along_m: float
) -> None:
    hits = random_hits(np.random.default_rng(seed))
    x, y, z = (-along_m * direction).tolist()
    further = TrackPoint((x, y, z), along_m / C_M_PER_NS)

    llh = track_llh(direction, AT_CENTRE, hits, sigma_ns=10.0, max_photons=20)

    assert track_llh(direction, further, hits, sigma_ns=10.0, max_photons=20) == pytest.approx(llh, rel=1e-6)


@given(seeds, directions, st.floats(0, 2 * np.pi), st.floats(-1e9, 1e9))
def test_llh_is_the_same_around_the_vertical_and_at_any_time(
    seed: int, direction: FloatArray, turn: float, later_ns: float
) -> None:
    hits = random_hits(np.random.default_rng(seed))
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    x, y, z = (rotation @ [10.0, 20.0, 30.0]).tolist()
    llh = track_llh(direction, TrackPoint((10.0, 20.0, 30.0), 5.0), hits, sigma_ns=25.0, max_photons=20)

    moved = np.column_stack((hits[:, :3] @ rotation.T, hits[:, 3] + later_ns, hits[:, 4]))
    point = TrackPoint((x, y, z), 5.0 + later_ns)

    assert track_llh(rotation @ direction, point, moved, sigma_ns=25.0, max_photons=20) == pytest.approx(
        llh, rel=1e-6
    )


@given(seeds, directions)
def test_llh_is_the_sum_over_the_hits_in_any_order(seed: int, direction: FloatArray) -> None:
    rng = np.random.default_rng(seed)
    hits = random_hits(rng)
    llh = track_llh(direction, AT_CENTRE, hits, sigma_ns=10.0, max_photons=20)

    alone = [track_llh(direction, AT_CENTRE, hit[None], sigma_ns=10.0, max_photons=20) for hit in hits]

    assert sum(alone) == pytest.approx(llh)
    assert track_llh(
        direction, AT_CENTRE, rng.permutation(hits), sigma_ns=10.0, max_photons=20
    ) == pytest.approx(llh)


@given(seeds, directions, sigmas, st.sampled_from((1.0, 20.0)))
def test_no_hit_costs_more_than_noise(
    seed: int, direction: FloatArray, sigma: float, max_photons: float
) -> None:
    hits = random_hits(np.random.default_rng(seed))
    light = first_light(direction, AT_CENTRE, hits)

    terms = log_likelihoods(light, photons(hits[:, 4], max_photons), sigma_ns=sigma)

    assert (terms >= math.log(NOISE / NOISE_NS)).all()


@given(
    st.tuples(*[st.floats(-1e6, 1e6)] * 3),
    st.floats(-1e7, 1e7),
    st.floats(0, 1e6),
    directions,
    st.sampled_from((1.0, 20.0)),
)
def test_it_is_finite_far_beyond_what_happens(
    place: tuple[float, float, float], time: float, charge: float, direction: FloatArray, max_photons: float
) -> None:
    hits = np.concatenate((hit_at(*place, time, charge), hit_at(0.0, 0.0, 0.0, time, 0.0)))

    assert math.isfinite(track_llh(direction, AT_CENTRE, hits, sigma_ns=3.0, max_photons=max_photons))


def test_no_hits_say_nothing() -> None:
    assert track_llh(FROM_ABOVE, AT_CENTRE, np.empty((0, 5)), sigma_ns=10.0, max_photons=1) == 0


def dark_at(*distances_m: float, n_each: float = 1.0, efficiency: float = 1.0) -> FloatArray:
    """Modules beside a vertical track through the centre."""
    return np.array([[distance, 0.0, -30.0, efficiency, n_each] for distance in distances_m]).reshape(-1, 5)


def test_a_module_far_from_the_track_may_well_be_dark() -> None:
    near, middle, far = (darkness(FROM_ABOVE, AT_CENTRE, dark_at(d)) for d in (30.0, 80.0, 300.0))

    assert near > middle > far
    assert far < 1e-4


def test_darkness_is_the_least_that_a_muon_shines() -> None:
    # Source: the charge that `track_charge_pe` expects, times the mean acceptance; the chance of no photon is its exp.
    expected = 0.338 * track_charge_pe(math.sqrt(60.0**2 + 1), 29.0, 98.0)

    assert darkness(FROM_ABOVE, AT_CENTRE, dark_at(60.0)) == pytest.approx(expected, rel=1e-2)
    assert darkness(FROM_ABOVE, AT_CENTRE, dark_at(60.0, efficiency=1.35)) == pytest.approx(
        1.35 * expected, rel=1e-2
    )


def test_a_module_that_stands_for_others_counts_as_often() -> None:
    one, three = dark_at(70.0, n_each=3.0), dark_at(70.0, 70.0, 70.0)

    assert darkness(FROM_ABOVE, AT_CENTRE, one) == pytest.approx(darkness(FROM_ABOVE, AT_CENTRE, three))


def test_no_single_module_and_not_all_together_forbid_a_track() -> None:
    assert darkness(FROM_ABOVE, AT_CENTRE, dark_at(1.0)) <= MAX_DARK_PE
    assert darkness(FROM_ABOVE, AT_CENTRE, dark_at(*[5.0] * 100)) == pytest.approx(MAX_DARKNESS)
    assert darkness(FROM_ABOVE, AT_CENTRE, dark_at()) == 0.0
