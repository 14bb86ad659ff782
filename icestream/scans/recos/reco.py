"""What a reconstruction of pixels is; one module beside this one is one reconstruction."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from icestream.physics.detector import Detector
from icestream.physics.events import Event
from icestream.ports import CallOptions, TensorModel
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.request import Seed


@dataclass(frozen=True, slots=True, eq=False)
class PreparedEvent:
    """What a reco needs of an event, made once per scan and process."""

    seed: Seed
    """Where first-level fits begin."""
    tensors: dict[str, NDArray[np.float32]]
    """The reco's own view of the hits, ready for its model."""


class Reco(Protocol):
    """Fits an event for given directions."""

    name: str
    hypotheses: tuple[str, ...]
    """What a pixel can turn out to be, for example "track"; `PixelFits.hypothesis` counts into it."""
    models: tuple[str, ...]
    """What must be served for it; empty for a reco that computes by itself."""
    offsets_m: tuple[tuple[float, float, float], ...]
    """Position variations, at least one; ((0, 0, 0),) for none."""
    rotates_offsets: bool
    adds_fallback_seed: bool
    levels_compare: bool
    """See `ScanRequest`."""
    batch_size: int
    """Fits that go to a worker together."""

    def prepare(self, event: Event, detector: Detector) -> PreparedEvent:
        """Select the hits and guess the vertex.

        Raises:
            InvalidEvent: The event has too few hits for this reco.
        """
        ...

    async def fit(
        self, batch: PixelBatch, prepared: PreparedEvent, model: TensorModel, options: CallOptions
    ) -> PixelFits:
        """Fit all rows of a batch.

        Raises:
            IceStreamError: As `TensorModel.infer_tensors`; the batch as a whole is without an answer.
        """
        ...
