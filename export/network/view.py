"""An event as the transformer sees it: its pulses as they lie to the fits, turned about the vertical."""

from dataclasses import dataclass

import torch
from torch import Tensor

from export.network.pulses import MAX_POSITION, MIN_CHARGE_PE, Pairs, ScaledPulses, log10
from export.network.refinement import Refined
from export.network.scorer import Measures, mean
from export.network.showers import N_SHOWER_FEATURES, Shower, ShowerView, see_shower, shower_features
from export.network.tracks import N_TRACK_FEATURES, Track, TrackView, see_track, track_features
from export.network.units import NANOSECOND, single
from export.network.vectors import dot, length, unit

N_COORDINATES = 10
N_PULSE_FEATURES = N_COORDINATES + N_TRACK_FEATURES + N_SHOWER_FEATURES + 5
N_EVENT_FEATURES = 28
N_PAIR_FEATURES = 3
MAX_EVENT_FEATURE = 10.0
MIDDLE = single(100.0 * NANOSECOND)


@dataclass(frozen=True, slots=True)
class EventView:
    """An event as the transformer sees it: turned so that the first estimate has azimuth 0."""

    pulses: ScaledPulses
    track: Track
    shower: Shower
    of_track: TrackView
    of_shower: ShowerView
    share: Tensor
    """How much each pulse counts in means, summing to 1; shape (1, B, L)."""
    is_prompt: Tensor
    log_n_pulses: Tensor
    """log10 of the pulses before selection; shape (1, B, 1)."""


def view_event(
    pulses: ScaledPulses, refined: Refined, log_n_pulses: Tensor, cosine: Tensor, sine: Tensor
) -> EventView:
    """Turn an event back by the azimuth of the given cosine and sine, and compare it with its fits."""
    pulses = pulses.turned(cosine, -sine)
    track, shower = refined.track.turned(cosine, -sine), refined.shower.turned(cosine, -sine)
    of_track, of_shower = see_track(pulses, track), see_shower(pulses, shower)
    return EventView(
        pulses, track, shower, of_track, of_shower, refined.share, refined.is_prompt, log_n_pulses
    )


def pulse_features(measures: Measures, view: EventView) -> Tensor:
    """What the transformer reads of each pulse; shape (N_PULSE_FEATURES, B, L), the N_COORDINATES to embed first."""
    pulses, track, shower = view.pulses, view.of_track, view.of_shower
    coordinates = (
        pulses.position,
        pulses.time - view.shower.time,
        track.measures,
        *(shower.residual, shower.distance),
        pulses.log_charge,
    )
    others = (
        track_features(measures, track),
        shower_features(measures, shower, unit(view.shower.origin)),
        shower.towards[:2],
        *(pulses.is_hlc, view.is_prompt, view.log_n_pulses * pulses.is_real),
    )
    return torch.cat((torch.cat(coordinates).clamp(-MAX_POSITION, MAX_POSITION), *others))


def event_features(view: EventView) -> Tensor:
    """What the class token starts from; shape (B, 1, N_EVENT_FEATURES)."""
    pulses, track, shower = view.pulses, view.track, view.shower
    origin = unit(shower.origin)
    n_hlc = (pulses.is_hlc * pulses.is_real).sum(-1, keepdim=True)
    charge = (pulses.is_real * pulses.charge).sum(-1, keepdim=True)
    measures = torch.cat((view.of_track.measures, view.of_shower.residual))
    features = (
        view.log_n_pulses,
        log10(1 + n_hlc),
        log10(charge.clamp_min(MIN_CHARGE_PE)),
        length(shower.origin).log() / 4,
        origin[::2],
        -dot(origin, track.flight),
        track.flight,
        track.place,
        track.time,
        shower.place,
        shower.time,
        mean(_bounded(measures.abs()), view.share),
        mean(_products(pulses.position - track.place), view.share),
    )
    return torch.cat(features).clamp(-MAX_EVENT_FEATURE, MAX_EVENT_FEATURE).permute(1, 2, 0)


def pair_features(pairs: Pairs) -> Tensor:
    """Interval, delay and distance of every pair of pulses, and 1; shape (B, N_PAIR_FEATURES + 1, L, L)."""
    interval2 = pairs.distance.square() - pairs.delay.square()
    # Divided by the root it is sign times root of the interval, but smooth where two pulses are alike.
    interval = interval2 / (interval2.abs() + 1e-4).sqrt()
    interval, delay = interval.clamp(-MAX_POSITION, MAX_POSITION), pairs.delay.clamp(-2, 2)
    return torch.cat((interval, delay, pairs.distance, torch.ones_like(delay)), 1)


def _bounded(values: Tensor) -> Tensor:
    """Squeeze values of at least 0 to below 1, with 1/2 at 100 ns or 50 m."""
    return values / (values + MIDDLE)


def _products(vector: Tensor) -> Tensor:
    """The six products of the components of vectors (3, B, L) with each other; shape (6, B, L)."""
    x, y, z = vector.chunk(3)
    return torch.cat((x * vector, y * vector[1:], z * z))
