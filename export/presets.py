"""The sizes in which the `direction` model comes."""

from dataclasses import dataclass, replace

from icestream.physics.features import MAX_MODEL_PULSES

CPU_BATCH_EVENTS = 8
"""As the router sends them to a CPU, where a model does not want more."""


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What fixes the number of weights."""

    n_track_steps: int
    """Learned steps of the track fit,"""
    n_shower_steps: int
    """of the shower fit,"""
    n_hidden: int
    """and hidden channels of a pulse in them."""
    width: int = 0
    """Channels of a pulse inside the transformer."""
    n_biased_blocks: int = 0
    """Blocks over the pulses, with the space-time bias."""
    n_plain_blocks: int = 0
    """Blocks over the class token and the pulses, without it; the last one answers for the class token only."""
    n_heads: int = 0
    mlp_ratio: int = 0
    """Hidden channels of a block's MLP, in units of `width`."""
    n_frequencies: int = 0
    """Sine and cosine pairs for each coordinate of a pulse."""
    n_bias_channels: int = 0
    """Hidden channels of the space-time bias; it is evaluated for every pair of pulses."""

    @property
    def has_transformer(self) -> bool:
        """Whether a transformer has the last word; without its blocks, the chain of fits does."""
        return self.n_plain_blocks > 0


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
    max_gradient_norm: float = 2.0


@dataclass(frozen=True, slots=True)
class Preset:
    """A network and the plan to train it."""

    name: str
    network: NetworkShape
    plan: TrainingPlan
    batch_events: int = CPU_BATCH_EVENTS
    """Events of a batch in which one core answers the most per second."""


CPU_PLAN = TrainingPlan(
    step_events=256, batch_events=128, peak_learning_rate=3e-3, cuts=(48, 48, 48, MAX_MODEL_PULSES)
)

PRESETS = {
    preset.name: preset
    for preset in (
        # The chain of `small` without its last steps and without a transformer: `export.shorten` makes it.
        # Trained with 64 pulses an event: it answers as well with 96, and sees more events in the same time.
        Preset(
            "fast",
            NetworkShape(n_track_steps=4, n_shower_steps=2, n_hidden=32),
            replace(CPU_PLAN, cuts=(64,)),
            batch_events=32,
        ),
        # Its only block lets the class token ask the pulses once.
        Preset(
            "nano",
            NetworkShape(
                n_track_steps=3,
                n_shower_steps=2,
                n_hidden=16,
                width=32,
                n_biased_blocks=0,
                n_plain_blocks=1,
                n_heads=4,
                mlp_ratio=2,
                n_frequencies=6,
                n_bias_channels=8,
            ),
            CPU_PLAN,
        ),
        Preset(
            "tiny",
            NetworkShape(
                n_track_steps=4,
                n_shower_steps=3,
                n_hidden=16,
                width=32,
                n_biased_blocks=1,
                n_plain_blocks=1,
                n_heads=4,
                mlp_ratio=2,
                n_frequencies=6,
                n_bias_channels=8,
            ),
            CPU_PLAN,
        ),
        # At least 500 events/s on one core.
        Preset(
            "small",
            NetworkShape(
                n_track_steps=6,
                n_shower_steps=4,
                n_hidden=32,
                width=64,
                n_biased_blocks=2,
                n_plain_blocks=2,
                n_heads=4,
                mlp_ratio=2,
                n_frequencies=8,
                n_bias_channels=8,
            ),
            CPU_PLAN,
        ),
        # For a GPU; the size of the smallest published IceMix.
        Preset(
            "base",
            NetworkShape(
                n_track_steps=8,
                n_shower_steps=6,
                n_hidden=64,
                width=256,
                n_biased_blocks=5,
                n_plain_blocks=5,
                n_heads=8,
                mlp_ratio=4,
                n_frequencies=32,
                n_bias_channels=32,
            ),
            TrainingPlan(step_events=4096, batch_events=1024, peak_learning_rate=8e-4, ema_decay=0.9995),
        ),
    )
}
