"""The input in the network's units, and what follows from it without any weight.

Everything that has to do with pulses is a stack of planes: tensors of shape (n, B, L), one plane a quantity, so that
operations run along the pulses of an event. With the quantities last, the same network takes thrice the time.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from export.network.units import METRE, NANOSECOND, single
from export.network.vectors import rotate
from icestream.physics.features import MAX_MODEL_PULSES

MAX_POSITION = 4.0
MAX_TIME = 20.0
"""Clip of positions and times in these units (2 km and 33 us), so that damaged input stays finite."""
PER_LN_10 = single(1 / math.log(10.0))
MIN_CHARGE_PE = 1e-2
MAX_CHARGE_PE = 1e6


@dataclass(frozen=True, slots=True)
class ScaledPulses:
    """Pulses of B events, each of shape (1, B, L) or (3, B, L)."""

    position: Tensor
    time: Tensor
    charge: Tensor
    """In p.e.; at least `MIN_CHARGE_PE`, also where there is no pulse."""
    log_charge: Tensor
    is_hlc: Tensor
    is_real: Tensor
    """1 for a pulse, 0 for padding."""

    def turned(self, cosine: Tensor, sine: Tensor) -> "ScaledPulses":
        """The same about the vertical by an angle's cosine and sine."""
        position = rotate(self.position, cosine, sine)
        return ScaledPulses(position, self.time, self.charge, self.log_charge, self.is_hlc, self.is_real)


@dataclass(frozen=True, slots=True)
class Pairs:
    """How pulses i and j lie to each other; each of shape (B, 1, L, L)."""

    distance: Tensor
    delay: Tensor
    """Time of i minus time of j."""


def scaled(pulses: Tensor, lengths: Tensor) -> ScaledPulses:
    """Scale the served input, of shape (B, L, 6), whose rows from `lengths` (B, 1) on are padding.

    The lengths are those before selection: rows from `MAX_MODEL_PULSES` on are padding, too.
    """
    rows = torch.arange(pulses.shape[1], device=pulses.device)
    is_real = (rows[None, :] < lengths.clamp_max(MAX_MODEL_PULSES)).to(pulses.dtype)[None]
    # Not transposed: onnxruntime would move the transposition along, and with it the quantities to the end.
    planes = torch.stack(pulses.unbind(-1))
    # Padding may hold anything.
    position, time, charge, is_hlc = (planes * is_real).split_with_sizes((3, 1, 1, 1))
    charge = charge.clamp(MIN_CHARGE_PE, MAX_CHARGE_PE)
    return ScaledPulses(
        (position * METRE).clamp(-MAX_POSITION, MAX_POSITION),
        (time * NANOSECOND).clamp(-MAX_TIME, MAX_TIME),
        charge,
        log10(charge),
        is_hlc.clamp(0, 1),
        is_real,
    )


def log10(values: Tensor) -> Tensor:
    """Decadic logarithm; ONNX has none, and torch's export of its own takes ln 10 in float32."""
    return values.log() * PER_LN_10


def pairs_of(pulses: ScaledPulses) -> Pairs:
    """Compare every pulse with every other, in float32: they are many, and no fit depends on their last digit."""
    planes = torch.cat((pulses.position, pulses.time)).float()
    x, y, z, t = (plane[:, None, :, None] - plane[:, None, None] for plane in planes.unbind())
    # Added one by one: the order in which a sum is taken would differ between torch and ONNX.
    return Pairs((x * x + y * y + z * z).sqrt(), t)


def hlc_or_all(pulses: ScaledPulses) -> Tensor:
    """1 for the HLC pulses, or for all of them where none is HLC; shape (1, B, L)."""
    is_hlc = pulses.is_hlc * pulses.is_real
    has_none = 1 - is_hlc.sum(-1, keepdim=True).clamp(0, 1)
    return is_hlc + has_none * pulses.is_real
