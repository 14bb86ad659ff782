"""A model without a server: the charge-weighted mean position as a direction, and marks that make it fail."""

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icestream.errors import DeadlineExceeded, IceStreamError, ModelFailed, UnknownModel
from icestream.physics.events import ModelVersion
from icestream.ports import CallOptions, ModelInput, ModelOutput

POISON_PE = 666.0
"""A pulse of this charge makes the whole batch fail."""
NOT_A_NUMBER_PE = 777.0
"""A pulse of this charge makes the answer for its event NaN."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One request that the model saw."""

    model: str
    batch: ModelInput
    options: CallOptions


class FakeModel:
    """Implements `icestream.ports.Model`.

    Attributes:
        calls: Every request, in order, whatever came of it.
        failure: Raised for every request while it is set: a server that is away, or full.
        n_in_work: Requests that wait for `release`.
    """

    def __init__(self, *models: str) -> None:
        self.calls: list[Call] = []
        self.failure: IceStreamError | None = None
        self.n_in_work = 0
        self._models = models or ("direction",)
        self._is_released = asyncio.Event()
        self._is_released.set()

    def hold(self) -> None:
        """Let requests wait until `release`, or until their time is up."""
        self._is_released.clear()

    def release(self) -> None:
        """Answer what waits, and everything from now on at once."""
        self._is_released.set()

    async def infer(self, model: str, batch: ModelInput, options: CallOptions) -> ModelOutput:
        """See `icestream.ports.Model`."""
        self.calls.append(Call(model, batch, options))
        if model not in self._models:
            raise UnknownModel(model, self._models)
        await self._wait(options.timeout_s)
        if self.failure is not None:
            raise self.failure
        charges = batch.pulses[:, :, 4]
        if (charges == POISON_PE).any() or (batch.lengths < 0).any():
            raise ModelFailed("an event of the batch is poison")
        direction = mean_directions(batch.pulses)
        direction[(charges == NOT_A_NUMBER_PE).any(axis=1)] = np.nan
        radii = np.full((len(charges), 2), (0.1, 0.2), np.float32)
        return ModelOutput(direction, charges.sum(axis=1, keepdims=True), radii, ModelVersion(model, "1"))

    async def _wait(self, timeout_s: float) -> None:
        self.n_in_work += 1
        try:
            await asyncio.wait_for(self._is_released.wait(), timeout_s)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s") from error
        finally:
            self.n_in_work -= 1


def mean_directions(pulses: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the model answers: unit vectors of shape (B, 3) for pulses of shape (B, L, 6)."""
    total = (pulses[:, :, :3] * pulses[:, :, 4:5]).sum(axis=1)
    # As the ONNX model of `tests.support.models` does: no charge, no direction.
    directions: NDArray[np.float32] = total / (
        np.linalg.norm(total, axis=1, keepdims=True) + np.float32(1e-9)
    )
    return directions
