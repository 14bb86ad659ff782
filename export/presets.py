"""The sizes in which the `direction` model comes."""

from dataclasses import dataclass

from icestream.physics.features import MAX_MODEL_PULSES


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What fixes the number of weights."""

    width: int
    """Channels of a pulse inside the transformer."""
    n_biased_blocks: int
    """Blocks over the pulses, with the space-time bias."""
    n_plain_blocks: int
    """Blocks over the class token and the pulses, without it; the last one answers for the class token only."""
    n_heads: int
    mlp_ratio: int
    """Hidden channels of a block's MLP, in units of `width`."""
    n_frequencies: int
    """Sine and cosine pairs for each coordinate of a pulse."""
    n_bias_channels: int
    """Hidden channels of the space-time bias; it is evaluated for every pair of pulses."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How a network of this shape learns best."""

    step_events: int
    """Events of one optimiser step, all lengths together."""
    batch_events: int
    """Most events that go through the network at once."""
    peak_learning_rate: float
    cuts: tuple[int, ...] = (MAX_MODEL_PULSES,)
    """Most pulses of an event in a step, in turn. Attention costs the square: short cuts show more events in the
    same time, the full ones in between keep the network right for what it is served."""
    ema_decay: float = 0.999
    weight_decay: float = 0.05
    max_gradient_norm: float = 1.0


@dataclass(frozen=True, slots=True)
class Preset:
    """A network and the plan to train it."""

    name: str
    network: NetworkShape
    plan: TrainingPlan


SHORT_CUTS = (48, 48, 48, MAX_MODEL_PULSES)

PRESETS = {
    preset.name: preset
    for preset in (
        # Learns in minutes on a CPU and serves the most events per second there.
        Preset("tiny", NetworkShape(64, 3, 1, 4, 2, 8, 8), TrainingPlan(128, 64, 2e-3, SHORT_CUTS)),
        # At least 500 events/s on one core.
        Preset("small", NetworkShape(96, 4, 2, 6, 3, 12, 12), TrainingPlan(512, 64, 1.5e-3, SHORT_CUTS)),
        # For a GPU; the size of the smallest published IceMix.
        Preset(
            "base", NetworkShape(256, 5, 5, 8, 4, 32, 32), TrainingPlan(4096, 1024, 8e-4, ema_decay=0.9995)
        ),
    )
}
