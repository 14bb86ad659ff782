"""Arrival times of light as tables: smooth, without branches, and exportable as one look-up.

The blurred Pandel law depends on the delay, the distance in scattering lengths and the rate at which late light
dies out. It is a function of rate times delay alone, so one table for a standard rate serves all ice when delays are
stretched by the rate; what that does to the blur (a factor of at most 2 in the clearest and the dustiest ice)
is no more than the blur's own arbitrariness.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from icestream.physics.cherenkov import C_M_PER_NS, N_GROUP
from icestream.physics.convoluted_pandel import tabulate
from icestream.physics.ice import ice_table
from icestream.physics.pandel import ABSORPTION_M, TAU_NS, delay_rate_per_ns, scattering_scale_m

SIGMAS_NS = (80.0, 40.0, 25.0, 10.0, 5.0, 3.0)
"""Blurs of the arrival times that are tabulated; the last is little more than a photomultiplier's own jitter."""

STANDARD_RATE_PER_NS = float(delay_rate_per_ns(ABSORPTION_M))

N_DELAYS = 512
N_SHAPES = 128
DELAY_SCALE_NS = 10.0
"""Delays are tabulated on asinh(delay / 10 ns)."""
FIRST_DELAY_NS = -600.0
LAST_DELAY_NS = 8000.0
MIN_SHAPE = 0.02
MAX_SHAPE = 60.0
MIN_LOG = -60.0
"""What is less likely than this meets the noise floor long before."""
ICE_STEP_M = 5.0
MIN_HEIGHT_M = 5.0
"""Horizontal paths are given so much height, so that mean lengths stay exact enough."""


class Arrival(NamedTuple):
    """Log density (1/ns) and log survival of one photon's delay, and their slopes."""

    log_pdf: Tensor
    log_sf: Tensor
    log_pdf_per_ns: Tensor
    log_sf_per_ns: Tensor
    log_pdf_per_shape: Tensor
    log_sf_per_shape: Tensor


def delay_axis() -> NDArray[np.float64]:
    """Tabulated delays in ns; shape (N_DELAYS,)."""
    first, last = (math.asinh(end / DELAY_SCALE_NS) for end in (FIRST_DELAY_NS, LAST_DELAY_NS))
    return DELAY_SCALE_NS * np.sinh(np.linspace(first, last, N_DELAYS))


def shape_axis() -> NDArray[np.float64]:
    """Tabulated distances in scattering lengths; shape (N_SHAPES,)."""
    return np.linspace(math.sqrt(MIN_SHAPE), math.sqrt(MAX_SHAPE), N_SHAPES) ** 2


@cache
def timing_table(sigmas_ns: Sequence[float] = SIGMAS_NS) -> Tensor:
    """Log density and log survival; shape (len(sigmas), N_DELAYS, N_SHAPES, 2), float32."""
    tables = [
        np.stack(tabulate(delay_axis(), shape_axis(), STANDARD_RATE_PER_NS, sigma), -1) for sigma in sigmas_ns
    ]
    return torch.from_numpy(np.maximum(np.stack(tables), MIN_LOG).astype(np.float32))


class TimingTable(nn.Module):
    """Reads the table by bilinear interpolation; the slopes are those of the interpolation."""

    table: Tensor

    def __init__(self, sigmas_ns: tuple[float, ...] = SIGMAS_NS) -> None:
        super().__init__()
        self.register_buffer("table", timing_table(sigmas_ns))
        first, last = (math.asinh(end / DELAY_SCALE_NS) for end in (FIRST_DELAY_NS, LAST_DELAY_NS))
        self._first_delay, self._delay_step = first, (last - first) / (N_DELAYS - 1)
        self._first_shape = math.sqrt(MIN_SHAPE)
        self._shape_step = (math.sqrt(MAX_SHAPE) - math.sqrt(MIN_SHAPE)) / (N_SHAPES - 1)

    def cells(self) -> Tensor:
        """The four corners of each cell side by side, so that one look-up gets all; shape (cells, 8)."""
        table = self.table
        corners = [table[:, :-1, :-1], table[:, 1:, :-1], table[:, :-1, 1:], table[:, 1:, 1:]]
        return torch.cat(corners, -1).reshape(-1, 8)

    def forward(self, cells: Tensor, blur: Tensor, delay_ns: Tensor, shape: Tensor, rate: Tensor) -> Arrival:
        """Look photons up.

        Args:
            cells: Of `cells()`, made once.
            blur: Row of `SIGMAS_NS`; shape (1,), int64.
            delay_ns: After the unscattered light; shape (P, H).
            shape: Distance in scattering lengths; shape (P, H).
            rate: The ice's rate over the standard one; shape (P, H).
        """
        delay = delay_ns * rate
        root = torch.sqrt(shape.clamp(MIN_SHAPE, MAX_SHAPE))
        far = torch.sqrt(delay * delay + DELAY_SCALE_NS**2)
        # asinh by a logarithm: the operator itself is four times slower in onnxruntime.
        bent = torch.sign(delay) * torch.log((delay.abs() + far) / DELAY_SCALE_NS)
        x = ((bent - self._first_delay) / self._delay_step).clamp(0.0, N_DELAYS - 1.001)
        y = ((root - self._first_shape) / self._shape_step).clamp(0.0, N_SHAPES - 1.001)
        i, j = torch.floor(x), torch.floor(y)
        # Exact in float32: there are fewer than 2^24 cells.
        row = (i * (N_SHAPES - 1) + j).to(torch.int64) + blur * ((N_DELAYS - 1) * (N_SHAPES - 1))
        # One plane per corner and quantity: onnxruntime is 30 times slower on (P, H, 2) times (P, H, 1).
        planes = functional.embedding(row, cells).unbind(-1)
        delay_slope = rate / (self._delay_step * far)
        shape_slope = 1 / (2 * self._shape_step * root)
        log_pdf, pdf_x, pdf_y = _bilinear(planes[0::2], x - i, y - j)
        log_sf, sf_x, sf_y = _bilinear(planes[1::2], x - i, y - j)
        return Arrival(
            log_pdf + torch.log(rate), log_sf,
            pdf_x * delay_slope, sf_x * delay_slope,
            pdf_y * shape_slope, sf_y * shape_slope,
        )  # fmt: skip


def _bilinear(corners: Sequence[Tensor], across: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value within a cell, and its slopes per cell in both directions."""
    low, low_next, high, high_next = corners
    slope_low, slope_high = low_next - low, high_next - high
    at_low, at_high = low + across * slope_low, high + across * slope_high
    rise = at_high - at_low
    return at_low + up * rise, slope_low + up * (slope_high - slope_low), rise


class IceDepths(nn.Module):
    """Mean scattering and absorption along straight paths between two heights."""

    cells: Tensor

    def __init__(self) -> None:
        super().__init__()
        ice = ice_table(ICE_STEP_M)
        # In scattering scales of the Pandel law rather than lengths, which saves a product per photon.
        integrals = np.stack((ice.scattering / scattering_scale_m(1.0), ice.absorption), -1)
        # Both ends of each step side by side, so that one look-up gets all; shape (steps, 4).
        cells = np.concatenate((integrals[:-1], np.diff(integrals, axis=0)), -1).astype(np.float32)
        self.register_buffer("cells", torch.from_numpy(cells))
        self._bottom_m, self._n_cells = ice.bottom_z_m, len(cells)

    def upto(self, z_m: Tensor) -> tuple[Tensor, Tensor]:
        """Integrals of 1/scale and of 1/absorption length from the bottom to a height; each of its shape."""
        x = (z_m - self._bottom_m) / ICE_STEP_M
        i = torch.floor(x).clamp(0.0, self._n_cells - 1.0)
        scattering, absorption, more_scattering, more_absorption = functional.embedding(
            i.to(torch.int64), self.cells
        ).unbind(-1)
        return scattering + (x - i) * more_scattering, absorption + (x - i) * more_absorption

    def along(
        self, upto_end: tuple[Tensor, Tensor], z_end_m: Tensor, climb_m: Tensor
    ) -> tuple[Tensor, Tensor]:
        """1/scale (1/m) and the rate over the standard one, on paths that climb to an end.

        Args:
            upto_end: `upto(z_end_m)`.
            z_end_m: Height of the end; shape (H,).
            climb_m: Height difference on the way; shape (P, H).
        """
        climb = torch.where(climb_m.abs() < MIN_HEIGHT_M, torch.full_like(climb_m, MIN_HEIGHT_M), climb_m)
        scattering, absorption = self.upto(z_end_m - climb)
        per_absorption_m = (upto_end[1] - absorption) / climb
        rate = (1 / TAU_NS + C_M_PER_NS / N_GROUP * per_absorption_m) / STANDARD_RATE_PER_NS
        return (upto_end[0] - scattering) / climb, rate
