"""The `direction` network: a chain of learned fits, and a transformer over the pulses that has the last word.

`export.network.refinement` turns a line fit into a track, a shower and a first estimate; the transformer sees the
pulses as they lie to these, turned so that the estimate points along x.

Every tensor has a fixed rank and nothing depends on values of the data, so that it exports to ONNX as it is.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from export.network.pulses import log10, pairs_of, scaled
from export.network.refinement import Refinement
from export.network.scorer import Measures
from export.network.transformer import Transformer
from export.network.vectors import azimuth_frame, length, rotate, unit
from export.network.view import EventView, event_features, pair_features, pulse_features, view_event
from export.presets import NetworkShape

MASKED = -1e4
"""Added to the attention scores of padding; finite, so that an all-padding row is no NaN."""
MAX_LOG_SCALE = 4.0


@dataclass(frozen=True, slots=True)
class Estimates:
    """What a network makes of B events."""

    p: Tensor
    """Unit vectors to the source times kappa; shape (B, 3)."""
    flights: list[Tensor]
    """Unit vectors along the track after each of its steps, for training; shapes (B, 3)."""
    origins: list[Tensor]
    """Like p, after each step of the shower; shapes (B, 3)."""


class DirectionNetwork(nn.Module):
    """Pulses in, one 3-vector per event out: it points to the source and its length is kappa."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.refinement = Refinement(shape.n_track_steps, shape.n_shower_steps, shape.n_hidden)
        self.measures = Measures()
        self.transformer = Transformer(shape)
        _start_as_first_estimate(self.transformer.head)

    def forward(self, pulses: Tensor, lengths: Tensor) -> Tensor:
        """Estimate p = kappa times the unit vector to the source; shape (B, 3).

        Args:
            pulses: x, y, z in m, t in ns after the event's origin, q in p.e., HLC as 1 or 0; shape (B, L, 6).
            lengths: Pulses before selection; rows from there on are padding; shape (B, 1).
        """
        return self.estimates(pulses, lengths).p

    def estimates(self, pulses: Tensor, lengths: Tensor) -> Estimates:
        """Answer like `forward`, and with every step on the way."""
        # Fits amplify rounding, where an event hardly says from which side it came: their precision is their own.
        exact, rough = self.refinement.dtype, self.transformer.head.weight.dtype
        with torch.autocast(pulses.device.type, enabled=False):
            event = scaled(pulses.to(exact), lengths)
            pairs = pairs_of(event)
            log_n = log10(lengths.to(exact).clamp_min(1))[:, None]
            refined = self.refinement(event, pairs, log_n)
            cosine, sine = azimuth_frame(unit(refined.shower.origin))
            view = view_event(event, refined, log_n, cosine, sine)
            features = pulse_features(self.measures, view), event_features(view), pair_features(pairs)
            masked = ((1 - event.is_real) * MASKED).transpose(1, 2)[:, None]
        answer = self.transformer(*(feature.to(rough) for feature in (*features, masked))).to(exact)
        with torch.autocast(pulses.device.type, enabled=False):
            p = rotate(_assemble(answer, view), cosine, sine)
        return Estimates(p[:, 0], [f[:, 0] for f in refined.flights], [o[:, 0] for o in refined.origins])

    def exact(self) -> Self:
        """Let the fits compute in float64 from now on, as they are served."""
        self.refinement.double()
        self.measures.double()
        return self


def direction_and_kappa(p: Tensor) -> tuple[Tensor, Tensor]:
    """Split the network's answer (B, 3) into unit vectors (B, 3) and kappa (B, 1)."""
    return unit(p), p.square().sum(-1, keepdim=True).clamp_min(1e-18).sqrt()


def _assemble(answer: Tensor, view: EventView) -> Tensor:
    """Make p of the head's numbers: a correction (3), shares of the estimate and of the track, log of a scale.

    The scale is one of the estimate's kappa, which ranges from below 1 to thousands.
    """
    scale = answer[..., 5:].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp() * length(view.shower.origin)
    shares = answer[..., 3:4] * unit(view.shower.origin) - answer[..., 4:5] * view.track.flight
    return (answer[..., :3] + shares) * scale


def _start_as_first_estimate(head: nn.Linear) -> None:
    """Make an untrained transformer answer with about the first estimate."""
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0]))
