"""What the use cases need from the outside world, one verb each; adapters live in `icestream.runtime`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from icestream.physics.events import ModelVersion


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """Events of equal padded length for the `direction` model."""

    pulses: NDArray[np.float32]
    """Shape (B, L, 6): x, y, z in m, t in ns after the event's time origin, q in p.e., HLC as 1 or 0."""
    lengths: NDArray[np.int32]
    """Shape (B, 1): pulses in each event before selection; rows from there on are padding."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelOutput:
    """The `direction` model's answers, row by row as they were asked."""

    direction: NDArray[np.float32]
    """Shape (B, 3): unit vectors to where the neutrinos came from."""
    kappa: NDArray[np.float32]
    """Shape (B, 1)."""
    error_radii_rad: NDArray[np.float32]
    """Shape (B, 2): the 50 % and the 90 % radius."""
    model: ModelVersion


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How one request is to be treated."""

    is_urgent: bool = False
    """Overtakes bulk work that waits in the model server's queue."""
    timeout_s: float = 10.0
    traceparents: Sequence[str] = ()
    """W3C trace contexts of the sampled events inside, for the model server's own spans."""


class Model(Protocol):
    """A model that estimates directions."""

    async def infer(self, model: str, batch: ModelInput, options: CallOptions) -> ModelOutput:
        """Answer for every row of the batch, or raise for the batch as a whole.

        Raises:
            UnknownModel: No such model is served.
            ModelUnavailable: The server does not answer or the model is not ready.
            ModelOverloaded: The server's queue is full.
            DeadlineExceeded: `options.timeout_s` passed.
            ModelFailed: The model answered with an error for this batch.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model returned."""

    model: ModelVersion
    tensors: Mapping[str, NDArray[Any]]


class TensorModel(Protocol):
    """Any model, by the names of its inputs and outputs."""

    async def infer_tensors(
        self, model: str, inputs: Mapping[str, NDArray[Any]], options: CallOptions
    ) -> Answer:
        """Answer, or raise as `Model.infer` does."""
        ...
