"""The `direction` network: a transformer over the pulses of an event.

Source: "IceMix", second place of the IceCube Kaggle competition (sinusoidal embeddings, space-time bias in the
first blocks, class token), with two changes that make a small one learn fast: it starts from a line fit
(`export.guess`), and it sees the event turned about the vertical so that this fit points along x.

Every tensor has a fixed rank and nothing depends on values of the data, so that it exports to ONNX as it is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.guess import (
    LENGTH_M,
    LIGHT_M_PER_NS,
    Guess,
    azimuth_frame,
    guess_line,
    prompt,
    rotate,
    unit,
)
from export.presets import NetworkShape

MAX_POSITION = 4.0
MAX_TIME = 20.0
"""Clip of positions and times in these units (2 km and 33 us), so that damaged input stays finite."""
MIN_CHARGE_PE = 1e-2
MAX_CHARGE_PE = 1e6
MASKED = -1e4
"""Added to the attention scores of padding; finite, so that an all-padding row is no NaN."""
MAX_LOG_SCALE = 8.0
N_COORDINATES = 10
N_PULSE_FEATURES = N_COORDINATES + 3
N_EVENT_FEATURES = 20
N_PAIR_FEATURES = 3
LONGEST_WAVE = 8.0
SHORTEST_WAVE = 0.05
"""Wavelengths of the sinusoidal embeddings: 4 km to 25 m, 13 us to 83 ns."""


@dataclass(frozen=True, slots=True)
class ScaledPulses:
    """The input in the network's units, each of shape (B, L, 1) or (B, L, 3)."""

    position: Tensor
    time: Tensor
    log_charge: Tensor
    is_hlc: Tensor
    is_real: Tensor
    """1 for a pulse, 0 for padding."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """How pulses i and j lie to each other; each of shape (B, 1, L, L)."""

    distance: Tensor
    delay: Tensor
    """Time of i minus time of j."""


@dataclass(frozen=True, slots=True)
class EventView:
    """An event as the transformer sees it: turned so that the first guess has azimuth 0."""

    pulses: ScaledPulses
    pairs: Pairs
    guess: Guess
    origin: Tensor
    """Unit vector to where the guess comes from; shape (B, 1, 3)."""
    cosine: Tensor
    sine: Tensor
    """Of the guess's azimuth in the detector; shape (B, 1, 1)."""
    log_n_pulses: Tensor
    """log10 of the pulses before selection; shape (B, 1, 1)."""


class DirectionNetwork(nn.Module):
    """Pulses in, one 3-vector per event out: it points to the source and its length is kappa."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        width = shape.width
        self.embedding = PulseEmbedding(width, shape.n_frequencies)
        self.bias = SpaceTimeBias(shape.n_bias_channels, shape.n_heads)
        self.class_token = nn.Linear(N_EVENT_FEATURES, width)
        self.biased_blocks = nn.ModuleList(_block(shape) for _ in range(shape.n_biased_blocks))
        self.plain_blocks = nn.ModuleList(_block(shape) for _ in range(shape.n_plain_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)
        _start_as_line_fit(self.head)

    def forward(self, pulses: Tensor, lengths: Tensor) -> Tensor:
        """Estimate p = kappa times the unit vector to the source; shape (B, 3).

        Args:
            pulses: x, y, z in m, t in ns after the event's origin, q in p.e., HLC as 1 or 0; shape (B, L, 6).
            lengths: Pulses before selection; rows from there on are padding; shape (B, 1).
        """
        # Differences of times and positions need all of float32, also where the blocks run in bfloat16.
        with torch.autocast(pulses.device.type, enabled=False):
            view = view_event(pulses, lengths)
            features, event, pairs = pulse_features(view), event_features(view), pair_features(view.pairs)
            masked = ((1 - view.pulses.is_real) * MASKED).transpose(1, 2)[:, None]
        answer = self._attend(features, event, pairs, masked).float()
        with torch.autocast(pulses.device.type, enabled=False):
            return rotate(_assemble(answer, view.origin), view.cosine, view.sine)[:, 0]

    def _attend(self, pulses: Tensor, event: Tensor, pairs: Tensor, masked: Tensor) -> Tensor:
        tokens = self.embedding(pulses)
        bias = self.bias(pairs) + masked
        for block in self.biased_blocks:
            tokens = block(tokens, tokens, bias)
        # The class token itself is never padding.
        masked = functional.pad(masked, (1, 0))
        answer = self.class_token(event)
        tokens = torch.cat((answer.to(tokens.dtype), tokens), 1)
        for block in self.plain_blocks[:-1]:
            tokens = block(tokens, tokens, masked)
        answer = self.plain_blocks[-1](tokens[:, :1], tokens, masked)
        return self.head(self.norm(answer))  # type: ignore[no-any-return]


def direction_and_kappa(p: Tensor) -> tuple[Tensor, Tensor]:
    """Split the network's answer (B, 3) into unit vectors (B, 3) and kappa (B, 1)."""
    return unit(p), p.square().sum(-1, keepdim=True).clamp_min(1e-18).sqrt()


class PulseEmbedding(nn.Module):
    """Waves of many lengths for each coordinate of a pulse, and an MLP to the network's width."""

    waves: Tensor
    phases: Tensor

    def __init__(self, width: int, n_frequencies: int) -> None:
        super().__init__()
        lengths = torch.logspace(math.log10(LONGEST_WAVE), math.log10(SHORTEST_WAVE), n_frequencies)
        self.register_buffer("waves", (2 * math.pi / lengths).repeat(2), persistent=False)
        # A cosine is a shifted sine: one operation on the CPU instead of two and a copy.
        self.register_buffer(
            "phases", torch.tensor([0.0, math.pi / 2]).repeat_interleave(n_frequencies), persistent=False
        )
        n_inputs = N_PULSE_FEATURES + N_COORDINATES * 2 * n_frequencies
        self.widen = nn.Linear(n_inputs, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, L, N_PULSE_FEATURES) to (B, L, width)."""
        waves = torch.sin(features[..., :N_COORDINATES, None] * self.waves + self.phases)
        inputs = torch.cat((features, waves.flatten(2)), -1)
        return self.narrow(functional.relu(self.widen(inputs)))  # type: ignore[no-any-return]


class SpaceTimeBias(nn.Module):
    """How much two pulses should attend to each other, from their separation in space and time."""

    def __init__(self, n_channels: int, n_heads: int) -> None:
        super().__init__()
        self.widen = nn.Linear(N_PAIR_FEATURES, n_channels)
        self.narrow = nn.Linear(n_channels, n_heads)

    def forward(self, pairs: Tensor) -> Tensor:
        """Map (B, N_PAIR_FEATURES, L, L) to attention scores of shape (B, n_heads, L, L)."""
        # The weights stand on the left, so that heads come out ahead of pairs without a transposition.
        hidden = functional.relu(_channels_first(self.widen, pairs.flatten(2)))
        scores: Tensor = _channels_first(self.narrow, hidden).unflatten(2, pairs.shape[2:])  # type: ignore[no-untyped-call]
        return scores


class Block(nn.Module):
    """A pre-norm transformer block whose queries may be fewer than its tokens."""

    def __init__(self, width: int, n_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.to_output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, mlp_ratio * width)
        self.narrow = nn.Linear(mlp_ratio * width, width)

    def forward(self, queries: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """Let the queries (B, Q, width) attend to the tokens (B, T, width).

        The scores, of shape (B, 1 or heads, 1 or Q, T), are added to the attention's own.
        """
        normed = self.norm(tokens)
        asking = normed if queries is tokens else self.norm(queries)
        queries = queries + self.to_output(self._attention(asking, normed, scores))
        hidden = functional.relu(self.widen(self.mlp_norm(queries)))
        return queries + self.narrow(hidden)  # type: ignore[no-any-return]

    def _attention(self, asking: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        key, value = self.to_key_value(tokens).chunk(2, -1)
        query, key, value = self._heads(self.to_query(asking)), self._heads(key), self._heads(value)
        # The few queries are scaled instead of the many scores.
        query = query * query.shape[-1] ** -0.5
        # Plain products, not the fused attention: it is as fast on a CPU and exports to plain ONNX.
        attention = torch.softmax(query @ key.transpose(-1, -2) + scores, -1)
        return (attention.to(value.dtype) @ value).transpose(1, 2).flatten(2)

    def _heads(self, tokens: Tensor) -> Tensor:
        heads: Tensor = tokens.unflatten(-1, (self.n_heads, -1))  # type: ignore[no-untyped-call]
        return heads.transpose(1, 2)


def view_event(pulses: Tensor, lengths: Tensor) -> EventView:
    """Scale an event, guess its direction and turn it so that the guess has azimuth 0."""
    scaled = _scaled(pulses, lengths)
    pairs, counts = _pairs(scaled), _counts_for_guess(scaled)
    prompt_counts = counts * prompt(pairs.distance, pairs.delay, counts)
    guess = guess_line(scaled.position, scaled.time, prompt_counts)
    origin = unit(-guess.velocity)
    cosine, sine = azimuth_frame(origin)
    turned = ScaledPulses(
        rotate(scaled.position, cosine, -sine), scaled.time, scaled.log_charge, scaled.is_hlc, scaled.is_real
    )
    guess = Guess(
        rotate(guess.centre, cosine, -sine), guess.time, rotate(guess.velocity, cosine, -sine), guess.weight
    )
    log_n_pulses = lengths.float().clamp_min(1).log10()[:, None]
    return EventView(turned, pairs, guess, rotate(origin, cosine, -sine), cosine, sine, log_n_pulses)


def pulse_features(view: EventView) -> Tensor:
    """What the network reads of each pulse; shape (B, L, N_PULSE_FEATURES), the N_COORDINATES to embed first."""
    pulses, guess = view.pulses, view.guess
    offset = pulses.position - guess.centre
    along = (offset * view.origin).sum(-1, keepdim=True)
    across = (offset - along * view.origin).square().sum(-1, keepdim=True).sqrt()
    late = pulses.time - guess.time
    # Light of a particle that follows the guess at the speed of light reaches `along` at minus `along`.
    residual = late + along
    coordinates = (pulses.position, offset, late, residual, across, pulses.log_charge)
    others = (pulses.is_hlc, view.log_n_pulses.expand_as(late), guess.weight)
    return torch.cat(coordinates + others, -1)


def event_features(view: EventView) -> Tensor:
    """What the class token starts from; shape (B, 1, N_EVENT_FEATURES)."""
    pulses, guess = view.pulses, view.guess
    share = guess.weight / guess.weight.sum(1, keepdim=True).clamp_min(1e-6)
    offset, late = pulses.position - guess.centre, pulses.time - guess.time
    miss = (offset - guess.velocity * late).square().sum(-1, keepdim=True)
    spread = (share * offset).transpose(1, 2) @ offset
    n_hlc = (pulses.is_hlc * pulses.is_real).sum(1, keepdim=True)
    charge = (pulses.is_real * 10**pulses.log_charge).sum(1, keepdim=True)
    return torch.cat(
        (
            view.log_n_pulses,
            (1 + n_hlc).log10(),
            charge.clamp_min(MIN_CHARGE_PE).log10(),
            guess.velocity.clamp(-3, 3),
            view.origin[..., ::2],
            guess.centre,
            guess.time,
            (share * miss).sum(1, keepdim=True).sqrt(),
            (share * late.square()).sum(1, keepdim=True).sqrt(),
            _upper_triangle(spread)[:, None],
        ),
        -1,
    )


def pair_features(pairs: Pairs) -> Tensor:
    """Interval, delay and distance of every pair of pulses; shape (B, N_PAIR_FEATURES, L, L)."""
    interval2 = pairs.distance.square() - pairs.delay.square()
    # Divided by the root it is sign times root of the interval, but smooth where two pulses are alike.
    interval = interval2 / (interval2.abs() + 1e-4).sqrt()
    return torch.cat(
        (interval.clamp(-MAX_POSITION, MAX_POSITION), pairs.delay.clamp(-2, 2), pairs.distance), 1
    )


def _pairs(pulses: ScaledPulses) -> Pairs:
    position, time = pulses.position.transpose(1, 2), pulses.time.transpose(1, 2)
    distance2 = (position[..., :, None] - position[..., None, :]).square().sum(1, keepdim=True)
    return Pairs(distance2.sqrt(), time[..., :, None] - time[..., None, :])


def _scaled(pulses: Tensor, lengths: Tensor) -> ScaledPulses:
    rows = torch.arange(pulses.shape[1], device=pulses.device)
    is_real = (rows[None, :] < lengths).float()[..., None]
    position = (pulses[..., :3] / LENGTH_M).clamp(-MAX_POSITION, MAX_POSITION)
    time = (pulses[..., 3:4] * (LIGHT_M_PER_NS / LENGTH_M)).clamp(-MAX_TIME, MAX_TIME)
    log_charge = pulses[..., 4:5].clamp(MIN_CHARGE_PE, MAX_CHARGE_PE).log10()
    return ScaledPulses(position, time, log_charge, pulses[..., 5:6].clamp(0, 1), is_real)


def _counts_for_guess(pulses: ScaledPulses) -> Tensor:
    """The HLC pulses, or all of them where none is HLC."""
    is_hlc = pulses.is_hlc * pulses.is_real
    has_none = 1 - is_hlc.sum(1, keepdim=True).clamp(0, 1)
    return is_hlc + has_none * pulses.is_real


def _upper_triangle(matrix: Tensor) -> Tensor:
    """The six numbers of symmetric matrices (B, 3, 3)."""
    return torch.cat((matrix[:, 0, :], matrix[:, 1, 1:], matrix[:, 2, 2:]), -1)


def _channels_first(linear: nn.Linear, values: Tensor) -> Tensor:
    """Apply a linear layer to (B, channels, N)."""
    return linear.weight @ values + linear.bias[:, None]


def _block(shape: NetworkShape) -> Block:
    return Block(shape.width, shape.n_heads, shape.mlp_ratio)


def _assemble(answer: Tensor, origin: Tensor) -> Tensor:
    """Make p of the head's five numbers: a correction to the guess, the guess's share, and log of a scale.

    kappa ranges from below 1 to thousands; without the scale the network would need very long to reach these.
    """
    scale = answer[..., 4:].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()
    return (answer[..., :3] + answer[..., 3:4] * origin) * scale


def _start_as_line_fit(head: nn.Linear) -> None:
    """Make an untrained network answer with about the first guess, and kappa about 1."""
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0]))
