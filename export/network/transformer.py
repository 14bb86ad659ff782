"""Blocks over pulses with a space-time bias, and a class token that gathers the answer.

Source: "IceMix", second place of the IceCube Kaggle competition (sinusoidal embeddings, space-time bias in the first
blocks, class token).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.network.scorer import mapped_with_one, product
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
            pulses: Planes, of shape (N_PULSE_FEATURES, B, L).
            event: Shape (B, 1, N_EVENT_FEATURES).
            pairs: Shape (B, N_PAIR_FEATURES + 1, L, L), the last channel 1.
            masked: Added to attention scores, far below zero for padding; shape (B, 1, 1, L).
        """
        tokens = self.embedding(pulses)
        bias = self.bias(pairs) + masked
        for block in self.biased_blocks:
            tokens = block(tokens, bias)
        answer = self.class_token(event)
        if len(self.plain_blocks) > 1:
            tokens = torch.cat((answer.to(tokens.dtype), tokens), 1)
            # The class token itself is never padding.
            with_answer = functional.pad(masked, (1, 0))
            for block in self.plain_blocks[:-1]:
                tokens = block(tokens, with_answer)
            answer, tokens = tokens[:, :1], tokens[:, 1:]
        last = self.plain_blocks[-1]
        assert isinstance(last, Block)
        return self.head(self.norm(last.ask(answer, tokens, masked)))  # type: ignore[no-any-return]


class PulseEmbedding(nn.Module):
    """Waves of many lengths for each coordinate of a pulse, and an MLP to the network's width."""

    waves: Tensor
    phases: Tensor

    def __init__(self, width: int, n_frequencies: int) -> None:
        super().__init__()
        lengths = torch.logspace(math.log10(LONGEST_WAVE), math.log10(SHORTEST_WAVE), n_frequencies)
        waves = (2 * math.pi / lengths).repeat(2)
        # A cosine is a shifted sine: one operation on the CPU instead of two and a copy.
        phases = torch.tensor([0.0, math.pi / 2]).repeat_interleave(n_frequencies)
        self.register_buffer("waves", waves[:, None, None], persistent=False)
        self.register_buffer("phases", phases[:, None, None], persistent=False)
        n_inputs = N_PULSE_FEATURES + N_COORDINATES * 2 * n_frequencies
        self.widen = nn.Linear(n_inputs, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map planes (N_PULSE_FEATURES, B, L) to tokens (B, L, width)."""
        waves = torch.sin(features[:N_COORDINATES, None] * self.waves + self.phases)
        inputs = torch.cat((features, waves.flatten(0, 1), torch.ones_like(features[:1])))
        hidden = functional.relu(mapped_with_one(self.widen, inputs))
        return product(self.narrow.weight, hidden).permute(1, 2, 0) + self.narrow.bias


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
        return (self.narrow.weight @ hidden).reshape(pairs.shape[0], -1, *pairs.shape[2:])


class Block(nn.Module):
    """A pre-norm transformer block."""

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

    def forward(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """Let the tokens (B, T, width) attend to each other.

        The scores, of shape (B, 1 or heads, 1 or T, T), are added to the attention's own.
        """
        normed = self.norm(tokens)
        key, value = self.to_key_value(normed).chunk(2, -1)
        query, key, value = self._query(normed), self._heads(key), self._heads(value)
        # Plain products, not the fused attention: it is as fast on a CPU and exports to plain ONNX.
        attention = torch.softmax(query @ key.transpose(-1, -2) + scores, -1)
        return self._answered(tokens, attention.to(value.dtype) @ value)

    def ask(self, query: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """Let one query (B, 1, width) attend to itself and to tokens (B, T, width), with scores (B, 1, 1, T).

        The same as if all of them were tokens, but no token gets a key or a value: the query is taken back through
        the keys' weights, and the values' weights take the mean of the tokens.
        """
        itself, others = self.norm(query), self.norm(tokens)
        to_key, to_value = self.to_key_value.weight.unflatten(0, (2, self.n_heads, -1))  # type: ignore[no-untyped-call]
        asked = (self._query(itself) @ to_key)[:, :, 0]
        # The keys' bias adds the same to all scores of a head: it changes no attention.
        own, theirs = asked @ itself.transpose(1, 2), asked @ others.transpose(1, 2) + scores[:, 0]
        attention = torch.softmax(torch.cat((own, theirs), -1), -1).to(others.dtype)
        seen = attention[..., :1] * itself + attention[..., 1:] @ others
        bias = self.to_key_value.bias.unflatten(0, (2, self.n_heads, 1, -1))[1]  # type: ignore[no-untyped-call]
        return self._answered(query, seen[:, :, None] @ to_value.transpose(1, 2) + bias)

    def _query(self, normed: Tensor) -> Tensor:
        query = self._heads(self.to_query(normed))
        # The few queries are scaled instead of the many scores.
        scaled: Tensor = query * query.shape[-1] ** -0.5
        return scaled

    def _answered(self, tokens: Tensor, values: Tensor) -> Tensor:
        """Take what each head saw, of shape (B, heads, T, width / heads), into the tokens."""
        tokens = tokens + self.to_output(values.transpose(1, 2).flatten(2))
        return tokens + self.narrow(functional.relu(self.widen(self.mlp_norm(tokens))))  # type: ignore[no-any-return]

    def _heads(self, tokens: Tensor) -> Tensor:
        heads: Tensor = tokens.unflatten(-1, (self.n_heads, -1))  # type: ignore[no-untyped-call]
        return heads.transpose(1, 2)


def _block(shape: NetworkShape) -> Block:
    return Block(shape.width, shape.n_heads, shape.mlp_ratio)
