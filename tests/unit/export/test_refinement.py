"""The geometry of the chain's steps, against the physics that the simulation uses."""

import pytest
import torch
from torch import Tensor

from export.network.guess import CLEANING_DELAY, CLEANING_RADIUS, prompt
from export.network.pulses import ScaledPulses
from export.network.refinement import ASIDE, Refinement, tie_breaker
from export.network.showers import Shower, first_shower, see_shower
from export.network.tracks import Track, TrackStep, _moved, _slopes, see_track
from export.network.units import METRE, NANOSECOND
from export.network.vectors import unit
from icestream.physics.cherenkov import point_delay_ns, track_delay_ns

FLIGHT = unit(torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)[:, None, None])
PLACE = torch.tensor([40.0, -20.0, 10.0], dtype=torch.float64)[:, None, None] * METRE


def modules(n: int = 60) -> Tensor:
    """Places of modules within 300 m; shape (3, 1, n)."""
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(n, 3, generator=generator, dtype=torch.float64).T[:, None] - 0.5) * 600 * METRE


def pulses_at(position: Tensor, time: Tensor) -> ScaledPulses:
    """Single photons in local coincidence."""
    one = torch.ones_like(time)
    return ScaledPulses(position, time, one, 0 * one, one, one)


def track_pulses() -> ScaledPulses:
    """Unscattered light of the track through PLACE at time 0."""
    position = modules()
    offset = (position - PLACE) / METRE
    along = (offset * FLIGHT).sum(0)
    across = (offset.square().sum(0) - along.square()).sqrt()
    delays = [track_delay_ns(float(a), float(d)) for a, d in zip(along[0], across[0], strict=True)]
    return pulses_at(position, torch.tensor(delays, dtype=torch.float64)[None, None] * NANOSECOND)


def shower_pulses() -> ScaledPulses:
    """Unscattered light of a shower at PLACE at time 0."""
    position = modules()
    distance = ((position - PLACE) / METRE).norm(dim=0)
    delays = [point_delay_ns(float(d)) for d in distance[0]]
    return pulses_at(position, torch.tensor(delays, dtype=torch.float64)[None, None] * NANOSECOND)


def test_light_of_a_track_has_no_residual_to_it() -> None:
    view = see_track(track_pulses(), Track(FLIGHT, PLACE, torch.zeros(1, 1, 1, dtype=torch.float64)))
    # The distance is softened near the track.
    assert view.measures[0].abs().max() < 20 * NANOSECOND
    assert view.measures[0].abs().median() < 1 * NANOSECOND


def test_light_of_a_shower_has_no_residual_to_it() -> None:
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    view = see_shower(shower_pulses(), Shower(PLACE, zero, FLIGHT))
    assert view.residual.abs().max() < 1 * NANOSECOND


@pytest.mark.parametrize("parameter", range(5))
def test_the_slopes_of_a_track_are_its_derivatives(parameter: int) -> None:
    pulses, track = track_pulses(), Track(FLIGHT, PLACE, torch.zeros(1, 1, 1, dtype=torch.float64))
    view = see_track(pulses, track)
    step = torch.zeros(5, 1, 1, dtype=torch.float64)
    step[parameter] = 1e-6
    moved = see_track(pulses, _moved(track, view, step)).measures
    of_time, of_distance = _slopes(view)[parameter].chunk(2, -1)
    torch.testing.assert_close((view.measures - moved)[0] / 1e-6, of_time, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((moved - view.measures)[1] / 1e-6, of_distance, atol=1e-4, rtol=1e-4)


def test_the_first_shower_is_near_the_vertex() -> None:
    pulses = shower_pulses()
    shower = first_shower(pulses, torch.ones_like(pulses.time), 0 * PLACE, FLIGHT)
    assert (shower.place - PLACE).norm() < 25 * METRE


@torch.no_grad()
def test_unlearned_steps_follow_the_light_of_a_track() -> None:
    torch.manual_seed(0)
    pulses = track_pulses()
    chain = Refinement(n_track_steps=4, n_shower_steps=1, hidden=4).double()
    for step in chain.track_steps:
        assert isinstance(step, TrackStep)
        step.scorer.last.weight.zero_()
        step.scorer.last.bias.copy_(torch.tensor([0.0, -8.0, 0.0, 0.0]))

    refined = chain(pulses, torch.full((1, 1, 1), 2.0, dtype=torch.float64))
    angles = [float(torch.rad2deg(torch.acos((f * FLIGHT).sum().clamp(-1, 1)))) for f in refined.flights]
    assert angles[-1] < 1.0
    assert angles[-1] < 0.5 * angles[0]


def test_light_on_a_line_of_strings_gets_a_side() -> None:
    heights = torch.linspace(-1, 1, 20, dtype=torch.float64)[None, None]
    strings = torch.tensor([[-0.2, 0.1], [-0.2, 0.1], [0.1, 0.25], [0.4, 0.4]], dtype=torch.float64).repeat(
        5, 1
    )
    line = torch.cat((strings.T[:, None], heights))
    one = torch.ones_like(heights)
    step = tie_breaker(line, one, line.mean(-1, keepdim=True))
    torch.testing.assert_close(step.norm(), torch.tensor(ASIDE, dtype=torch.float64), rtol=1e-3, atol=0)
    wide = line.clone()
    wide[0, :, ::3] += 0.15
    assert tie_breaker(wide, one, wide.mean(-1, keepdim=True)).norm() < 0.1 * ASIDE


def test_a_pulse_is_late_where_another_was_seen_near_and_long_before() -> None:
    near, far = 0.95 * CLEANING_RADIUS, 1.1 * CLEANING_RADIUS
    soon, late = 0.95 * CLEANING_DELAY, 1.1 * CLEANING_DELAY
    heights = torch.tensor([0.5, 0.5 + near, 0.5 - near, 0.5 + near + far], dtype=torch.float64)
    times = torch.tensor([0.0, late, soon, 2 * late], dtype=torch.float64)
    position = torch.stack((0 * heights - 0.3, 0 * heights + 0.7, heights))[:, None]
    pulses = pulses_at(position, times[None, None])
    assert prompt(pulses, torch.ones_like(pulses.time))[0, 0].tolist() == [1, 0, 1, 1]
    # The first one tells no other late where it does not count.
    counts = torch.tensor([[[0.0, 1, 1, 1]]], dtype=torch.float64)
    assert prompt(pulses, counts)[0, 0].tolist() == [1, 1, 1, 1]
