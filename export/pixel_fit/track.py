"""The infinite track: where and when a muon passed, for many directions at once.

Per hit module, the likelihood of the first photon's arrival among the module's photons (MPE; SPE for one photon),
by the Pandel law blurred with a Gaussian, in ice whose clarity depends on depth, above a floor for noise.
Sources: AMANDA, NIM A524 (2004) 169 for the likelihoods, astro-ph/0407044 for the law, arXiv:0704.1706 for
the blur.
"""

import math

import torch
from torch import Tensor, nn

from export.pixel_fit.minimizer import Minimizer, Standing
from export.pixel_fit.tables import IceDepths, TimingTable
from icestream.physics.cherenkov import (
    C_M_PER_NS,
    COS_CHERENKOV,
    MEAN_ACCEPTANCE,
    N_GROUP,
    PE_PER_M,
    SIN_CHERENKOV,
    TAN_CHERENKOV,
)
from icestream.physics.ice import MEAN_ABSORPTION_M, MEAN_SCATTERING_M
from icestream.physics.track_likelihood import (
    MAX_DARK_PE,
    MAX_DARKNESS,
    NOISE,
    NOISE_NS,
    SOFTENING_M2,
)

STAGES = (
    ((80.0, 9), (40.0, 5)),
    ((25.0, 8),),
    ((10.0, 7), (5.0, 5), (3.0, 7)),
    ((10.0, 12),),
)
"""By level. On a coarse level a pixel's centre is up to 4 degrees off the event's direction, which moves the times
at the detector's edge by 100 ns: blurring them is what finds the right minimum."""
PRIORS = (1e-4, 1e-4, 1e-6)
MAX_SEED_CHARGE_PE = 5.0
"""Modules count by charge in the event's centre up to here, so that one shower does not become the centre."""
PROPAGATION_M = math.sqrt(MEAN_SCATTERING_M * MEAN_ABSORPTION_M / 3)
CRITICAL_M = MEAN_SCATTERING_M / 3 * math.exp(MEAN_SCATTERING_M / MEAN_ABSORPTION_M)
MIXING_M = CRITICAL_M / SIN_CHERENKOV * math.sqrt(2 / (math.pi * PROPAGATION_M))
DARK_PE = MEAN_ACCEPTANCE * PE_PER_M / (2 * math.pi * SIN_CHERENKOV * MIXING_M)
"""Of `icestream.physics.cherenkov.track_charge_pe`."""
DETOUR_NS_PER_M = (N_GROUP / SIN_CHERENKOV - 1 / TAN_CHERENKOV) / C_M_PER_NS


class TrackFit(nn.Module):
    """Profiles the likelihood over the track's place and time."""

    up: Tensor
    east: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.timing, self.ice = TimingTable(), IceDepths()
        self.minimizer = Minimizer(STAGES, PRIORS)
        self.register_buffer("up", torch.tensor([[0.0, 0.0, 1.0]]))
        self.register_buffer("east", torch.tensor([[1.0, 0.0, 0.0]]))

    def forward(
        self,
        direction: Tensor,
        seeds: Tensor,
        hits: Tensor,
        dark: Tensor,
        level: Tensor,
        max_photons: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fit all pixels.

        Args:
            direction: Unit vectors to where the neutrino came from; shape (P, 3).
            seeds: x, y, z (m), t (ns) of a point that the track passes, k tries for each pixel; shape (P, k, 4).
            hits: x, y, z (m), t (ns), q (p.e.) of the hit modules; shape (H, 5).
            dark: x, y, z (m) and relative efficiency of modules without light, and how many others each stands for;
                shape (M, 5). They have a say in how good a fit is, not in where it goes.
            level: Index into `STAGES`; shape (1,), int32.
            max_photons: Charge counts as so many photons at most; 1 is SPE. Shape (1,).

        Returns:
            -ln L (P,), the part of it that the times make (P,), the track's point nearest to the event's centre
            (P, 3) in m, its time (P,) in ns.
        """
        n_pixels, n_seeds = seeds.shape[0], seeds.shape[1]
        travel = -direction[:, None, :].expand(-1, n_seeds, -1).reshape(-1, 3)
        seed = seeds.reshape(-1, 4)
        event = _Event(self, travel, hits, max_photons)
        place, timing_llh = self.minimizer(event.likelihood, event.start(seed), level.to(torch.int64))
        llh = timing_llh + event.darkness(place, dark)
        best = torch.argmin(llh.reshape(n_pixels, n_seeds), dim=1, keepdim=True)
        rows = torch.arange(n_pixels, device=best.device)[:, None] * n_seeds + best
        chosen = rows[:, 0]
        position = event.centre + event.right * place[:, 0:1] + event.forth * place[:, 1:2]
        return llh[chosen], timing_llh[chosen], position[chosen], place[chosen, 2] + event.origin_ns


class _Event:
    """The hits as each direction sees them; P pixels (times seeds), H hits."""

    def __init__(self, fit: TrackFit, travel: Tensor, hits: Tensor, max_photons: Tensor) -> None:
        self._fit = fit
        charge = hits[:, 4]
        weight = charge.clamp(0.1, MAX_SEED_CHARGE_PE)[:, None]
        centre = (weight * hits[:, :4]).sum(0, keepdim=True) / weight.sum()
        self.centre, self.origin_ns = centre[:, :3], centre[0, 3]
        self._n_photons = torch.minimum(torch.round(charge).clamp(min=1.0), max_photons)
        self._n_more = self._n_photons - 1
        self._time = hits[:, 3] - self.origin_ns
        self._height = hits[:, 2]
        self._upto = fit.ice.upto(self._height)
        self._cells = fit.timing.cells()
        is_steep = travel[:, 2:].abs() > 0.9
        right = torch.linalg.cross(travel, torch.where(is_steep, fit.east, fit.up))
        self.right = right / torch.linalg.vector_norm(right, dim=1, keepdim=True)
        self.forth = torch.linalg.cross(travel, self.right)
        self.travel = travel
        offset = (hits[:, :3] - self.centre).transpose(0, 1)
        self._right_m, self._forth_m = self.right @ offset, self.forth @ offset
        self._expected_ns = (travel @ offset) / C_M_PER_NS
        self._log_floor = math.log(NOISE / NOISE_NS)
        self._log_signal = math.log(1 - NOISE)

    def start(self, seed: Tensor) -> Tensor:
        """Where a track through the seeds (P, 4) passes the event's centre: right, forth (m), time (ns)."""
        offset = seed[:, :3] - self.centre
        along = (offset * self.travel).sum(1)
        return torch.stack(
            (
                (offset * self.right).sum(1),
                (offset * self.forth).sum(1),
                seed[:, 3] - self.origin_ns - along / C_M_PER_NS,
            ),
            1,
        )

    def darkness(self, place: Tensor, dark: Tensor) -> Tensor:
        """-ln of the chance that modules (M, 5) stay dark; shape (P,)."""
        offset = (dark[:, :3] - self.centre).transpose(0, 1)
        right, forth = self.right @ offset - place[:, 0:1], self.forth @ offset - place[:, 1:2]
        distance_squared = right * right + forth * forth + SOFTENING_M2
        root = torch.sqrt(torch.sqrt(distance_squared))
        near = torch.tanh(root / MIXING_M)
        light = torch.exp(-root * root / PROPAGATION_M) / (root * near)
        expected = (light * (DARK_PE * dark[:, 3])).clamp(max=MAX_DARK_PE)
        total = (expected @ dark[:, 4:5])[:, 0]
        return MAX_DARKNESS * torch.tanh(total / MAX_DARKNESS)

    def _seen_from(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance (m) of each module from the track, and its direction across; each of shape (P, H)."""
        right, forth = self._right_m - place[:, 0:1], self._forth_m - place[:, 1:2]
        distance = torch.sqrt(right * right + forth * forth + SOFTENING_M2)
        return distance, right / distance, forth / distance

    def likelihood(self, place: Tensor, blur: Tensor) -> Standing:
        """At places (P, 3) and with a row (1,) of the table of blurs."""
        distance, right, forth = self._seen_from(place)
        delay = self._time - (place[:, 2:3] + self._expected_ns + distance * DETOUR_NS_PER_M)
        # Cosine of the unscattered photon's flight with the vertical.
        up = COS_CHERENKOV * self.travel[:, 2:] + SIN_CHERENKOV * (
            right * self.right[:, 2:] + forth * self.forth[:, 2:]
        )
        effective = 0.8395 * distance + 3.094 - 3.946 * up + 4.636 * up * up
        per_m, rate = self._fit.ice.along(self._upto, self._height, up * distance / SIN_CHERENKOV)
        light = self._fit.timing(self._cells, blur, delay, effective * per_m, rate)
        n_more = self._n_more
        log_first = light.log_pdf + n_more * light.log_sf + torch.log(self._n_photons) + self._log_signal
        per_ns = light.log_pdf_per_ns + n_more * light.log_sf_per_ns
        per_m_away = (light.log_pdf_per_shape + n_more * light.log_sf_per_shape) * (0.8395 * per_m)
        floor = torch.full_like(log_first, self._log_floor)
        share = torch.sigmoid(log_first - floor)
        across = share * (DETOUR_NS_PER_M * per_ns - per_m_away)
        # Per hit the slopes of ln L and a 1, so that one product sums everything.
        score = torch.stack((across * right, across * forth, -share * per_ns, torch.ones_like(share)), 1)
        sums = score @ score.transpose(1, 2)
        return Standing(-torch.logaddexp(log_first, floor).sum(1), sums[:, :3, 3:], sums[:, :3, :3])
