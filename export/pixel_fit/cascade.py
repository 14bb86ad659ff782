"""The cascade: where, when and how bright a shower was, for many directions at once.

A shower is a point that shines mostly forward, at the Cherenkov angle. Light that scatters early seems to come
from ahead of it, so that even far modules tell its front from its back: by how much light they get and by when.
Two terms say so, in ice whose clarity depends on depth: the first photon's arrival among a module's photons
(as for the track), and the charges of all modules near by, dark ones included, by a Poisson law whose expectation
is uncertain by a share of itself (a negative binomial law). Sources: the model of light is that of
`icestream.physics.light`; arXiv:1311.4767 for the charges, astro-ph/0407044 for the times.
`icestream.physics.cascade_likelihood` is the same likelihood in plain numpy.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from export.pixel_fit.minimizer import Minimizer, Standing
from export.pixel_fit.tables import MIN_HEIGHT_M, STANDARD_RATE_PER_NS, IceDepths, TimingTable
from icestream.physics.cascade_likelihood import (
    CHARGE_PER_PHOTON_PE,
    EMISSION_ROUNDING,
    NOISE,
    NOISE_NS,
    NOISE_PE,
    PHOTONS_UNTIL_MODEL_FAILS,
    SOFTENING_M2,
)
from icestream.physics.cherenkov import (
    C_M_PER_NS,
    CASCADE_NORM,
    COS_CHERENKOV,
    MEAN_ACCEPTANCE,
    MEAN_EMISSION_COS,
    N_GROUP,
    PE_PER_M,
    SIN_CHERENKOV,
)
from icestream.physics.muons import EM_LIGHT_M_PER_GEV
from icestream.physics.pandel import TAU_NS, scattering_scale_m

CHARGE_STAGES = (((10.0, 8),), ())
"""Tries of the charges alone, by level; they know no blur. Finer pixels begin at the fit of a coarser one."""
STAGES = (
    ((25.0, 10), (10.0, 10)),
    ((10.0, 12),),
)
"""By level; all end with the same blur, so that levels compare."""
PRIORS = (1e-4, 1e-4, 1e-4, 1e-6, 1e-3)
N_TIME_STEPS = 8
EARLY_NS = 100.0
"""Cauchy width of the seed's residuals for light before the unscattered one: noise, or a wrong seed."""
LATE_NS = 50.0
"""The same for later light, which scattering delays."""
LATENESS_NS_PER_M = 1.0
"""The first of a few photons is typically late by so much; sets the seed's time alone."""
MAX_STEP_M = 40.0
ACCEPTANCE = (
    0.32813, 0.63899, 0.20049, -1.2250, -0.14470, 4.1695, 0.76898, -5.8690, -2.0939, 2.3834, 1.0435,
)  # fmt: skip
"""Coefficients of `angular_acceptance`, from the constant upwards; the polynomial is positive throughout."""
NS_PER_M = N_GROUP / C_M_PER_NS
SCATTERING_PER_SCALE = 1 / scattering_scale_m(1.0)
LOG_POINT = math.log(PE_PER_M / (4 * math.pi))
HALF_M = MIN_HEIGHT_M / 2
MAX_DIFFUSION = 40.0
"""Farther, in critical distances, light only diffuses; sinh would overflow."""


class CascadeFit(nn.Module):
    """Profiles the likelihood over the shower's place, time and energy."""

    def __init__(self) -> None:
        super().__init__()
        self.timing, self.ice = TimingTable(), IceDepths()
        self.charge_minimizer = Minimizer(CHARGE_STAGES, PRIORS)
        self.minimizer = Minimizer(STAGES, PRIORS)

    def forward(
        self,
        direction: Tensor,
        seeds: Tensor,
        hits: Tensor,
        modules: Tensor,
        level: Tensor,
        max_photons: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Fit all pixels.

        Args:
            direction: Unit vectors to where the neutrino came from; shape (P, 3).
            seeds: x, y, z (m), t (ns) of the shower, k tries for each pixel; shape (P, k, 4).
            hits: x, y, z (m), t (ns), q (p.e.) of the modules whose times count; shape (H, 5).
            modules: x, y, z (m), q (p.e., 0 where dark), relative efficiency of all modules around the shower,
                whether their times count or not; shape (M, 5).
            level: Index into `STAGES`; shape (1,), int32.
            max_photons: For the times, charge counts as so many photons at most; shape (1,).

        Returns:
            -ln L (P,), the part of it that the times make (P,), the shower's place (P, 3) in m and time (P,) in
            ns, and the energy (P,) in GeV of the electromagnetic shower that is as bright.
        """
        n_pixels, n_seeds = seeds.shape[0], seeds.shape[1]
        travel = -direction[:, None, :].expand(-1, n_seeds, -1).reshape(-1, 3)
        event = _Event(self, travel, hits, modules, max_photons)
        seed = event.relative(seeds.reshape(-1, 4))
        stage = level.to(torch.int64)
        shower = event.lit(seed)
        placed, _ = self.charge_minimizer(event.charge_likelihood, shower, stage, _limited)
        shower = torch.where(level == 0, event.timed(placed), shower)
        shower, llh = self.minimizer(event.likelihood, shower, stage, _limited)
        timing_llh, _ = event.times(shower, self.minimizer.last_blur(stage))
        best = torch.argmin(llh.reshape(n_pixels, n_seeds), dim=1, keepdim=True)
        chosen = (torch.arange(n_pixels, device=best.device)[:, None] * n_seeds + best)[:, 0]
        shower = shower[chosen]
        return (
            llh[chosen],
            timing_llh[chosen],
            shower[:, :3] + event.centre,
            shower[:, 3] + event.origin_ns,
            torch.exp(shower[:, 4]) / EM_LIGHT_M_PER_GEV,
        )


def _limited(step: Tensor) -> Tensor:
    """Steps (P, 5) that move the shower no farther than `MAX_STEP_M`."""
    length: Tensor = torch.linalg.vector_norm(step[:, :3], dim=1, keepdim=True)
    return step / (1 + length / MAX_STEP_M)


class _Mean(NamedTuple):
    """A mean along the path to each module, and how it changes with the shower's height; of shape (P, N)."""

    value: Tensor
    per_height: Tensor


class _Slopes(NamedTuple):
    """How something changes with distance, with both cosines, and with the source's height by the ice alone."""

    distance: Tensor
    axis: Tensor
    up: Tensor
    height: Tensor


class _Part(NamedTuple):
    """The direct or the early scattered light of the shower at each module; tensors of shape (P, N)."""

    log_pe: Tensor
    log_pe_slopes: _Slopes
    delay_ns: Tensor
    """Of the unscattered photon after the shower."""
    delay_slopes: _Slopes
    shape: Tensor
    """Effective distance in scattering lengths."""
    shape_slopes: _Slopes


class _Light(NamedTuple):
    """Both parts, and what they have in common."""

    direct: _Part
    scattered: _Part
    rate: Tensor
    """Of late light to die out, over the standard one."""
    rate_per_height: Tensor


class _View(NamedTuple):
    """Modules as seen from each shower, all of shape (P, N)."""

    x: Tensor
    y: Tensor
    z: Tensor
    """Unit vector to the module; a little shorter near by."""
    distance: Tensor
    axis: Tensor
    """Cosine between the light and the shower's axis."""

    def gradient(self, travel: Tensor, slopes: _Slopes) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes with the shower's x, y and z."""
        outward = (slopes.axis * self.axis + slopes.up * self.z) / self.distance - slopes.distance
        axial = slopes.axis / self.distance
        return (
            outward * self.x - axial * travel[:, 0:1],
            outward * self.y - axial * travel[:, 1:2],
            outward * self.z - axial * travel[:, 2:3] + slopes.height - slopes.up / self.distance,
        )


class _Places(NamedTuple):
    """Where modules are, and the ice there; of shape (N,)."""

    x: Tensor
    y: Tensor
    z: Tensor
    scattering_upto: Tensor
    absorption_upto: Tensor
    """Of `IceDepths.upto`."""
    scattering: Tensor
    absorption: Tensor
    """1/scale and 1/absorption length at the module."""


class _Event:
    """The modules as each direction sees them; P pixels (times seeds), H hits, M modules."""

    def __init__(
        self, fit: CascadeFit, travel: Tensor, hits: Tensor, modules: Tensor, max_photons: Tensor
    ) -> None:
        self._fit, self._travel = fit, travel
        weight = modules[:, 3:4]
        self.centre = (weight * modules[:, :3]).sum(0, keepdim=True) / weight.sum()
        self.origin_ns = hits[:, 3].mean()
        self._hits = _placed(fit.ice, hits[:, :3], self.centre)
        self._modules = _placed(fit.ice, modules[:, :3], self.centre)
        self._time = hits[:, 3] - self.origin_ns
        self._n_photons = torch.minimum(torch.round(hits[:, 4]).clamp(min=1.0), max_photons)
        self._count = modules[:, 3] / CHARGE_PER_PHOTON_PE
        self._log_efficiency = torch.log(modules[:, 4])
        self._seed_weight = torch.sqrt(hits[:, 4].clamp(1.0, 9.0))
        self._cells = fit.timing.cells()

    def relative(self, seed: Tensor) -> Tensor:
        """Seeds (P, 4) relative to the event's centre."""
        return torch.cat((seed[:, :3] - self.centre, seed[:, 3:] - self.origin_ns), 1)

    def timed(self, shower: Tensor) -> Tensor:
        """The same showers (P, 5) at the time that their hits agree on best, by re-weighted least squares."""
        at = self._hits
        x, y, z = at.x - shower[:, 0:1], at.y - shower[:, 1:2], at.z - shower[:, 2:3]
        distance = torch.sqrt(x * x + y * y + z * z + SOFTENING_M2)
        since = self._time - distance * (NS_PER_M + LATENESS_NS_PER_M)
        time = shower[:, 3:4]
        for _ in range(N_TIME_STEPS):
            residual = since - time
            weight = self._seed_weight / (1 + (residual / torch.where(residual < 0, EARLY_NS, LATE_NS)) ** 2)
            time = (weight * since).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        return torch.cat((shower[:, :3], time, shower[:, 4:]), 1)

    def lit(self, start: Tensor) -> Tensor:
        """Showers at a start (P, 4), as bright as all charge together wants them; shape (P, 5)."""
        _, light = self._seen(start[:, :3], self._modules)
        log_pe = torch.logaddexp(light.direct.log_pe, light.scattered.log_pe)
        expected = torch.logsumexp(log_pe + self._log_efficiency, dim=1, keepdim=True)
        return torch.cat((start, torch.log(self._count.sum()) - expected), 1)

    def likelihood(self, shower: Tensor, blur: Tensor) -> Standing:
        """Of times and charges together, at showers (P, 5) and for a row (1,) of the table of blurs."""
        times, time_score = self.times(shower, blur)
        charges, charge_slope, charge_curvature = self._charges(shower)
        slope = time_score.sum(2, keepdim=True) + charge_slope
        curvature = time_score @ time_score.transpose(1, 2) + charge_curvature
        return Standing(times + charges, slope, curvature)

    def charge_likelihood(self, shower: Tensor, blur: Tensor) -> Standing:  # noqa: ARG002 - charges have none
        """As `likelihood`, of the charges alone."""
        return Standing(*self._charges(shower))

    def times(self, shower: Tensor, blur: Tensor) -> tuple[Tensor, Tensor]:
        """-ln L of the arrival times (P,), and each hit's slopes of ln L (P, 5, H)."""
        view, light = self._seen(shower[:, :3], self._hits)
        parts = (light.direct, light.scattered)
        since = self._time - shower[:, 3:4]
        photons = [
            self._fit.timing(self._cells, blur, since - p.delay_ns, p.shape, light.rate) for p in parts
        ]
        # Log shares of the two parts.
        excess = parts[1].log_pe - parts[0].log_pe
        shares = (torch.sigmoid(-excess), torch.sigmoid(excess))
        log_shares = (-_softplus(excess), -_softplus(-excess))
        log_pdf = torch.logaddexp(log_shares[0] + photons[0].log_pdf, log_shares[1] + photons[1].log_pdf)
        log_sf = torch.logaddexp(log_shares[0] + photons[0].log_sf, log_shares[1] + photons[1].log_sf)
        n_more = self._n_photons - 1
        log_first = log_pdf + n_more * log_sf + torch.log(self._n_photons) + math.log(1 - NOISE)
        floor = torch.full_like(log_first, math.log(NOISE / NOISE_NS))
        signal = torch.sigmoid(log_first - floor)

        slopes = [torch.zeros_like(signal) for _ in range(4)]
        per_ns = torch.zeros_like(signal)
        for k in range(2):
            part, photon = parts[k], photons[k]
            of_pdf = torch.exp(log_shares[k] + photon.log_pdf - log_pdf)
            of_sf = n_more * torch.exp(log_shares[k] + photon.log_sf - log_sf)
            by_ns = of_pdf * photon.log_pdf_per_ns + of_sf * photon.log_sf_per_ns
            by_shape = of_pdf * photon.log_pdf_per_shape + of_sf * photon.log_sf_per_shape
            by_log_pe = of_pdf + of_sf - shares[k] * (1 + n_more)
            per_ns = per_ns + by_ns
            for i in range(4):
                slopes[i] = (
                    slopes[i]
                    - by_ns * part.delay_slopes[i]
                    + by_shape * part.shape_slopes[i]
                    + by_log_pe * part.log_pe_slopes[i]
                )
            # A table's delays are stretched by the rate, and its density with them.
            by_rate = of_pdf + by_ns * (since - part.delay_ns)
            slopes[3] = slopes[3] + by_rate * light.rate_per_height / light.rate
        gradient = view.gradient(self._travel, _Slopes(*(signal * slope for slope in slopes)))
        score = torch.stack((*gradient, -signal * per_ns, torch.zeros_like(signal)), 1)
        return -torch.logaddexp(log_first, floor).sum(1), score

    def _charges(self, shower: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-ln L of the charges relative to expectations that meet them, slopes (P, 5, 1), curvature (P, 5, 5)."""
        view, light = self._seen(shower[:, :3], self._modules)
        direct, scattered = light.direct.log_pe, light.scattered.log_pe
        log_pe = torch.logaddexp(direct, scattered) + self._log_efficiency
        signal = torch.exp((log_pe + shower[:, 4:5]).clamp(max=30.0))
        expected = signal + NOISE_PE
        count, k = self._count, PHOTONS_UNTIL_MODEL_FAILS
        surprise = count * torch.log(count.clamp(min=1e-6) / expected)
        surprise = surprise - (count + k) * torch.log((count + k) / (expected + k))

        # Per relative change of the light.
        of_light = signal / expected
        pull = of_light * (count - expected) * (k / (expected + k))
        information = of_light * of_light * expected * (k / (expected + k))
        share = torch.sigmoid(scattered - direct)
        slopes = _Slopes(
            *(
                a + share * (b - a)
                for a, b in zip(light.direct.log_pe_slopes, light.scattered.log_pe_slopes, strict=True)
            )
        )
        gradient = view.gradient(self._travel, slopes)
        columns = torch.stack((*gradient, torch.zeros_like(share), torch.ones_like(share)), 1)
        slope = columns @ pull[..., None]
        curvature = (columns * information[:, None]) @ columns.transpose(1, 2)
        return surprise.sum(1), slope, curvature

    def _seen(self, place: Tensor, at: "_Places") -> tuple[_View, _Light]:
        """Modules from showers at (P, 3)."""
        x, y, z = at.x - place[:, 0:1], at.y - place[:, 1:2], at.z - place[:, 2:3]
        distance = torch.sqrt(x * x + y * y + z * z + SOFTENING_M2)
        travel = self._travel
        axis = (x * travel[:, 0:1] + y * travel[:, 1:2] + z * travel[:, 2:3]) / distance
        view = _View(x / distance, y / distance, z / distance, distance, axis)
        height = place[:, 2:3] + self.centre[:, 2:3]
        scattering, absorption = _means(self._fit.ice, height, z, at)
        return view, _light(view, travel[:, 2:], scattering, absorption)


def _placed(ice: IceDepths, place_m: Tensor, centre_m: Tensor) -> _Places:
    """Modules (N, 3) relative to a centre (1, 3)."""
    # Copies, because the exporter refuses loops over views of one tensor.
    x, y, z = (column.clone() for column in (place_m - centre_m).unbind(1))
    height = place_m[:, 2].clone()
    return _Places(x, y, z, *ice.upto(height), *_own_means(ice, height))


def _means(ice: IceDepths, height: Tensor, climb: Tensor, at: _Places) -> tuple[_Mean, _Mean]:
    """1/scale of the Pandel law and 1/absorption length on the paths from heights (P, 1) to modules."""
    is_level = climb.abs() < MIN_HEIGHT_M
    per_climb = 1 / torch.where(is_level, torch.full_like(climb, MIN_HEIGHT_M), climb)
    zero = torch.zeros_like(climb)
    upto, own = ice.upto(height), _own_means(ice, height)
    scattering, absorption = (
        (at.scattering_upto - upto[0]) * per_climb,
        (at.absorption_upto - upto[1]) * per_climb,
    )
    by_scattering, by_absorption = (scattering - own[0]) * per_climb, (absorption - own[1]) * per_climb
    # Level paths take the ice of the module's own height.
    return (
        _Mean(torch.where(is_level, at.scattering, scattering), torch.where(is_level, zero, by_scattering)),
        _Mean(torch.where(is_level, at.absorption, absorption), torch.where(is_level, zero, by_absorption)),
    )


def _own_means(ice: IceDepths, height: Tensor) -> tuple[Tensor, Tensor]:
    """1/scale and 1/absorption length at heights."""
    above, below = ice.upto(height + HALF_M), ice.upto(height - HALF_M)
    return (above[0] - below[0]) / MIN_HEIGHT_M, (above[1] - below[1]) / MIN_HEIGHT_M


def _light(view: _View, travel_z: Tensor, scattering: _Mean, absorption: _Mean) -> _Light:
    """See `icestream.physics.light._shower_light`; here with all slopes."""
    d, cos, up = view.distance, view.axis, view.z
    per_m, per_m_z = scattering
    s, s_z = SCATTERING_PER_SCALE / per_m, -SCATTERING_PER_SCALE * per_m_z / (per_m * per_m)
    a = 1 / absorption.value
    a_z = -absorption.per_height * a * a
    zero = torch.zeros_like(d)

    unscattered = torch.exp(-d / s)
    by_distance, by_scattering = -unscattered / s, unscattered * d / (s * s)
    point, point_d, point_s, point_a = _log_point(d, s, a)
    sensitivity, sensitivity_up = _acceptance(up)
    acceptance = unscattered * sensitivity + (1 - unscattered) * MEAN_ACCEPTANCE
    gain = (sensitivity - MEAN_ACCEPTANCE) / acceptance
    off = cos - COS_CHERENKOV
    rounded = off * off + EMISSION_ROUNDING**2
    power = torch.exp(torch.log(rounded) * 0.195)
    direct_slopes = _Slopes(
        distance=point_d - 1 / s + gain * by_distance,
        axis=-2.61 * 0.39 * power * off / rounded,
        up=unscattered * sensitivity_up / acceptance,
        height=(point_s + d / (s * s) + gain * by_scattering) * s_z + point_a * a_z,
    )
    log_direct = point - d / s + math.log(CASCADE_NORM) - 2.61 * power + torch.log(acceptance)
    direct = _Part(
        log_direct,
        direct_slopes,
        d * NS_PER_M,
        _Slopes(torch.full_like(d, NS_PER_M), zero, zero, zero),
        *_shape(
            d,
            _Slopes(torch.ones_like(d), zero, zero, zero),
            up,
            _Slopes(zero, zero, torch.ones_like(d), zero),
            per_m,
            per_m_z,
        ),
    )

    ahead, ahead_z = MEAN_EMISSION_COS * s, MEAN_EMISSION_COS * s_z
    free = torch.sqrt((d * d - 2 * ahead * d * cos + ahead * ahead).clamp(min=1e-6))
    is_free = free > d / 2
    shifted = torch.where(is_free, free, d / 2)
    shifted_slopes = _Slopes(
        torch.where(is_free, (d - ahead * cos) / shifted, 0.5),
        torch.where(is_free, -ahead * d / shifted, 0.0),
        zero,
        torch.where(is_free, (ahead - d * cos) / shifted, 0.0) * ahead_z,
    )
    point, point_d, point_s, point_a = _log_point(shifted, s, a)
    lost = 1 - unscattered
    scattered_slopes = _Slopes(
        point_d * shifted_slopes.distance - by_distance / lost,
        point_d * shifted_slopes.axis,
        zero,
        point_d * shifted_slopes.height + (point_s - by_scattering / lost) * s_z + point_a * a_z,
    )
    detour = ahead + shifted
    is_detour = detour > d
    # The photon's flight after it was scattered.
    up_free = (d * up - ahead * travel_z) / shifted
    is_inside = up_free.abs() < 1
    up_slopes = _Slopes(
        torch.where(is_inside, (up - up_free * shifted_slopes.distance) / shifted, 0.0),
        torch.where(is_inside, -up_free * shifted_slopes.axis / shifted, 0.0),
        torch.where(is_inside, d / shifted, 0.0),
        torch.where(is_inside, -(ahead_z * travel_z + up_free * shifted_slopes.height) / shifted, 0.0),
    )
    scattered = _Part(
        point + torch.log(lost) + math.log(MEAN_ACCEPTANCE),
        scattered_slopes,
        torch.where(is_detour, detour, d) * NS_PER_M,
        _Slopes(
            torch.where(is_detour, shifted_slopes.distance, 1.0) * NS_PER_M,
            torch.where(is_detour, shifted_slopes.axis, 0.0) * NS_PER_M,
            zero,
            torch.where(is_detour, shifted_slopes.height + ahead_z, 0.0) * NS_PER_M,
        ),
        *_shape(shifted, shifted_slopes, up_free.clamp(-1, 1), up_slopes, per_m, per_m_z),
    )
    absorbed_per_ns = C_M_PER_NS / N_GROUP / STANDARD_RATE_PER_NS
    rate = 1 / (TAU_NS * STANDARD_RATE_PER_NS) + absorbed_per_ns * absorption.value
    return _Light(direct, scattered, rate, absorbed_per_ns * absorption.per_height)


def _shape(
    distance: Tensor, distance_slopes: _Slopes, up: Tensor, up_slopes: _Slopes, per_m: Tensor, per_m_z: Tensor
) -> tuple[Tensor, _Slopes]:
    """Effective distance in scattering lengths; see `effective_distance_m`."""
    effective = 0.8395 * SIN_CHERENKOV * distance + 3.094 - 3.946 * up + 4.636 * up * up
    by_up = (9.272 * up - 3.946) * per_m
    slopes = [
        0.8395 * SIN_CHERENKOV * per_m * of_distance + by_up * of_up
        for of_distance, of_up in zip(distance_slopes, up_slopes, strict=True)
    ]
    slopes[3] = slopes[3] + effective * per_m_z
    return effective * per_m, _Slopes(*slopes)


def _log_point(d: Tensor, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log of `point_charge_pe`, and its slopes with distance, scattering and absorption length."""
    propagation = torch.sqrt(a * s / 3)
    critical = s / 3 * torch.exp(s / a)
    x = (d / critical).clamp(max=MAX_DIFFUSION)
    near = 4 * x / (torch.exp(2 * x) - torch.exp(-2 * x))
    log_point = LOG_POINT - d / propagation - torch.log(critical * d * torch.tanh(x))
    by_propagation = d / (2 * propagation)
    return (
        log_point,
        -1 / propagation - (1 + near) / d,
        by_propagation / s - (1 - near) * (1 / s + 1 / a),
        by_propagation / a + (1 - near) * s / (a * a),
    )


def _acceptance(c: Tensor) -> tuple[Tensor, Tensor]:
    """See `angular_acceptance`, and its slope with the cosine."""
    value, slope = torch.full_like(c, ACCEPTANCE[-1]), torch.zeros_like(c)
    for coefficient in reversed(ACCEPTANCE[:-1]):
        slope = slope * c + value
        value = value * c + coefficient
    return value, slope


def _softplus(x: Tensor) -> Tensor:
    """ln(1 + exp(x))."""
    return torch.logaddexp(x, torch.zeros_like(x))
