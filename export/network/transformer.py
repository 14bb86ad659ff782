"""Blocks over pulses with a space-time bias, and a class token that gathers the answer.

Source: "IceMix", second place of the IceCube Kaggle competition (sinusoidal embeddings, space-time bias in the first
blocks, class token).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.network.view import N_COORDINATES, N_EVENT_FEATURES, N_PAIR_FEATURES, N_PULSE_FEATURES
from export.presets import NetworkShape

N_ANSWERS = 6
LONGEST_WAVE = 8.0
SHORTEST_WAVE = 0.05
"""Wavelengths of the sinusoidal embeddings: 4 km to 25 m, 13 us to 83 ns."""


class Transformer(nn.Module):
    """Blocks over pulses, then over a class token and pulses; a linear head."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        width = shape.width
        self.embedding = PulseEmbedding(width, shape.n_frequencies)
        self.bias = SpaceTimeBias(shape.n_bias_channels, shape.n_heads)
        self.class_token = nn.Linear(N_EVENT_FEATURES, width)
        self.biased_blocks = nn.ModuleList(_block(shape) for _ in range(shape.n_biased_blocks))
        self.plain_blocks = nn.ModuleList(_block(shape) for _ in range(shape.n_plain_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, N_ANSWERS)

    def forward(self, pulses: Tensor, event: Tensor, pairs: Tensor, masked: Tensor) -> Tensor:
        """Answer for each event; shape (B, 1, N_ANSWERS).

        Args:
            pulses: Shape (B, L, N_PULSE_FEATURES).
            event: Shape (B, 1, N_EVENT_FEATURES).
            pairs: Shape (B, N_PAIR_FEATURES + 1, L, L), the last channel 1.
            masked: Added to attention scores, far below zero for padding; shape (B, 1, 1, L).
        """
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
        # What is the same for all pairs of a head changes no attention: there is no bias.
        self.narrow = nn.Linear(n_channels, n_heads, bias=False)

    def forward(self, pairs: Tensor) -> Tensor:
        """Map (B, N_PAIR_FEATURES + 1, L, L), where the last channel is 1, to scores (B, n_heads, L, L)."""
        # The weights stand on the left, so that heads come out ahead of pairs without a transposition, and hold
        # the bias: nothing is as large as what is added for every pair.
        weight = torch.cat((self.widen.weight, self.widen.bias[:, None]), 1)
        hidden = functional.relu(weight @ pairs.flatten(2))
        scores: Tensor = (self.narrow.weight @ hidden).unflatten(2, pairs.shape[2:])  # type: ignore[no-untyped-call]
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


def _block(shape: NetworkShape) -> Block:
    return Block(shape.width, shape.n_heads, shape.mlp_ratio)
