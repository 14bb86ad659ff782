"""The `direction` network: a chain of learned fits, and a transformer over the pulses that has the last word.

`export.network.refinement` turns a line fit into a track, a shower and a first estimate; the transformer sees the
pulses as they lie to these, turned so that the estimate points along x.

Every tensor has a fixed rank and nothing depends on values of the data, so that it exports to ONNX as it is.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from export.network.pulses import ScaledPulses, log10, pairs_of, scaled
from export.network.refinement import Refined, Refinement
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
        self.transformer = Transformer(shape) if shape.has_transformer else None
        if self.transformer is not None:
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
        exact = self.refinement.dtype
        with torch.autocast(pulses.device.type, enabled=False):
            event = scaled(pulses.to(exact), lengths)
            log_n = log10(lengths.to(exact).clamp_min(1))[None]
            refined = self.refinement(event, log_n)
        p = (
            refined.origins[-1]
            if self.transformer is None
            else self._last_word(self.transformer, event, refined, log_n)
        )
        return Estimates(_rows(p), [_rows(f) for f in refined.flights], [_rows(o) for o in refined.origins])

    def _last_word(
        self, transformer: Transformer, event: ScaledPulses, refined: Refined, log_n: Tensor
    ) -> Tensor:
        """Let the transformer improve on the chain's answer; shape (3, B, 1)."""
        exact, rough = self.refinement.dtype, transformer.head.weight.dtype
        device = event.time.device.type
        with torch.autocast(device, enabled=False):
            cosine, sine = azimuth_frame(unit(refined.shower.origin))
            view = view_event(event, refined, log_n, cosine, sine)
            features = (
                pulse_features(self.measures, view),
                event_features(view),
                pair_features(pairs_of(event)),
            )
            masked = ((1 - event.is_real[0]) * MASKED)[:, None, None]
        answer = transformer(*(feature.to(rough) for feature in (*features, masked))).to(exact)
        with torch.autocast(device, enabled=False):
            return rotate(_assemble(answer.permute(2, 0, 1), view), cosine, sine)

    def exact(self) -> Self:
        """Let the fits compute in float64 from now on, as they are served."""
        self.refinement.exact()
        self.measures.double()
        return self


def direction_and_kappa(p: Tensor) -> tuple[Tensor, Tensor]:
    """Split the network's answer (B, 3) into unit vectors (B, 3) and kappa (B, 1)."""
    kappa = p.square().sum(-1, keepdim=True).clamp_min(1e-18).sqrt()
    return p / kappa, kappa


def _assemble(answer: Tensor, view: EventView) -> Tensor:
    """Make p (3, B, 1) of the head's numbers.

    These are a correction (3), shares of the estimate and of the track, and the logarithm of a scale.

    The scale is one of the estimate's kappa, which ranges from below 1 to thousands.
    """
    correction, of_estimate, of_track, log_scale = answer.split_with_sizes((3, 1, 1, 1))
    scale = log_scale.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp() * length(view.shower.origin)
    return (correction + of_estimate * unit(view.shower.origin) - of_track * view.track.flight) * scale


def _rows(vector: Tensor) -> Tensor:
    """Vectors (3, B, 1) as rows (B, 3)."""
    return vector[..., 0].transpose(0, 1)


def _start_as_first_estimate(head: nn.Linear) -> None:
    """Make an untrained transformer answer with about the first estimate."""
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0]))
