"""A dummy that fails now and then, in every way that a reco can, for tests of whatever has to live with it."""

import asyncio
import os
import random
from collections.abc import Callable
from enum import StrEnum

from icestream.errors import Misconfigured
from icestream.physics.detector import Detector
from icestream.physics.events import Event
from icestream.ports import CallOptions, TensorModel
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.recos.dummy import Dummy
from icestream.scans.recos.reco import PreparedEvent

PROBABILITY_VARIABLE = "ICESTREAM_RECO_CRASH_PROBABILITY"
"""Environment variable: share of attempts that fail, 0 to 1."""
WAYS_VARIABLE = "ICESTREAM_RECO_CRASH_WAYS"
"""Environment variable: how they fail, for example `hang,raise`; all ways by default."""
DEFAULT_PROBABILITY = 0.75
_EXIT_STATUS = 66


class Way(StrEnum):
    """How an attempt fails."""

    HANG = "hang"
    RAISE = "raise"
    EXIT = "exit"


class CrashDummy:
    """Fits as the dummy does, unless this attempt is one of those that fail."""

    name: str = "crash_dummy"
    hypotheses = Dummy.hypotheses
    models = Dummy.models
    offsets_m = Dummy.offsets_m
    rotates_offsets = Dummy.rotates_offsets
    adds_fallback_seed = Dummy.adds_fallback_seed
    levels_compare = Dummy.levels_compare
    batch_size = Dummy.batch_size

    def __init__(
        self, rng: random.Random | None = None, end_process: Callable[[int], object] = os._exit
    ) -> None:
        # The system's own randomness: a batch that failed here may succeed at the next attempt, in
        # whatever process that is.
        self._rng = rng or random.SystemRandom()
        self._end_process = end_process
        self._dummy = Dummy()

    def prepare(self, event: Event, detector: Detector) -> PreparedEvent:
        """As the dummy does."""
        return self._dummy.prepare(event, detector)

    async def fit(
        self, batch: PixelBatch, prepared: PreparedEvent, model: TensorModel, options: CallOptions
    ) -> PixelFits:
        """As the dummy does, or hang for ever, raise, or end the process.

        Raises:
            RuntimeError: It happens.
        """
        if self._rng.random() < _probability():
            await self._fail(self._rng.choice(_ways()))
        return await self._dummy.fit(batch, prepared, model, options)

    async def _fail(self, way: Way) -> None:
        match way:
            case Way.HANG:
                await asyncio.Event().wait()
            case Way.RAISE:
                raise RuntimeError("crash_dummy fails, as it is meant to")
            case Way.EXIT:
                self._end_process(_EXIT_STATUS)


def _probability() -> float:
    text = os.environ.get(PROBABILITY_VARIABLE, str(DEFAULT_PROBABILITY))
    try:
        probability = float(text)
    except ValueError:
        probability = -1.0
    if not 0 <= probability <= 1:
        raise Misconfigured(f"{PROBABILITY_VARIABLE} is {text!r}, which is no number from 0 to 1")
    return probability


def _ways() -> list[Way]:
    text = os.environ.get(WAYS_VARIABLE, ",".join(Way))
    try:
        return [Way(way.strip()) for way in text.split(",")]
    except ValueError as error:
        raise Misconfigured(f"{WAYS_VARIABLE} is {text!r}; choose from {', '.join(Way)}") from error


RECO = CrashDummy()
